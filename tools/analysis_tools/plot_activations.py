#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the activation functions that a checkpoint has learned."""

import argparse
import re
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import Tensor, nn

from mmact.activations import Activation
from mmact.cli import UserError, check_data, checkpoint_config, one_line_errors
from mmact.visualization import (
    InputRecorder,
    activations_from_state_dict,
    plot_alignment,
    plot_functions,
    scalar_activations,
)
from mmact.visualization.alignment import layer_ious


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the activation functions of a checkpoint. The checkpoint alone is enough '
        'for functions.png: of PWLU, or where it holds its config, as those of MMEngine do, of all '
        'kinds that are functions of one number. With --data the model runs on some validation '
        'batches, their input distributions are drawn behind, and alignment.png shows '
        'how well bounds cover them.'
    )
    parser.add_argument('checkpoint', help='checkpoint of a training, or a plain state_dict')
    parser.add_argument('--out', type=Path, help="folder to write to (default: the checkpoint's)")
    parser.add_argument(
        '--data', type=int, default=0, metavar='N', help='run N validation batches (default: 0)'
    )
    parser.add_argument(
        '--config', help='config of model and data (default: the one in the checkpoint)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value ...'
    )
    parser.add_argument(
        '--layers', nargs='+', metavar='REGEX', help='draw only layers whose path matches one'
    )
    parser.add_argument('--max-layers', type=int, default=16, help='panels (default: 16)')
    parser.add_argument('--functions', type=int, default=5, help='functions a panel (default: 5)')
    parser.add_argument('--device', default='cpu', help='where the model runs (default: cpu)')
    return parser.parse_args()


def main() -> None:
    """Draws, with one-line errors for mistakes."""
    args = parse_args()
    with one_line_errors():
        for path in draw(args):
            print(path)


def draw(args: argparse.Namespace) -> list[Path]:
    """Writes the pictures and returns their paths."""
    for flag, value, least in (
        ('--data', args.data, 0),
        ('--max-layers', args.max_layers, 1),
        ('--functions', args.functions, 1),
    ):
        if value < least:
            raise UserError(f'{flag} must be at least {least}, got {value}')
    if not Path(args.checkpoint).is_file():
        raise UserError(f'checkpoint {args.checkpoint} does not exist')
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
    state_dict = checkpoint.get('state_dict', checkpoint)
    config = checkpoint_config(checkpoint.get('meta', {}), args.config, args.cfg_options)
    inputs = None
    if config is not None:
        with one_line_errors(config):
            model = build_model(config, state_dict).to(args.device)
            layers = scalar_activations(model)
            if args.data and layers:
                inputs = record(model, layers, config, args.data)
    elif args.data:
        raise UserError(
            '--data needs a config, and this checkpoint does not hold one: give --config'
        )
    else:
        layers = activations_from_state_dict(state_dict)
    if not layers:
        raise UserError(nothing_to_draw(args.checkpoint, None if config is None else model))
    layers = selected(layers, args.layers)

    name = Path(args.checkpoint).stem
    folder = args.out or Path(args.checkpoint).parent
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        'functions': plot_functions(
            layers,
            inputs,
            num_functions=args.functions,
            max_layers=args.max_layers,
            title=f'Learned activation functions of {name}',
        )
    }
    if inputs is not None and layer_ious(layers, inputs):
        figures['alignment'] = plot_alignment(
            layers, inputs, title=f'Alignment of bounds and input of {name}'
        )
    paths = []
    for kind, figure in figures.items():
        paths.append(folder / f'{name}_{kind}.png')
        figure.savefig(paths[-1], dpi=150)
    return paths


def selected(layers: dict[str, nn.Module], patterns: list[str] | None) -> dict[str, nn.Module]:
    """The layers whose path matches one of the regular expressions."""
    if not patterns:
        return layers
    found = {
        path: layer for path, layer in layers.items() if any(re.search(p, path) for p in patterns)
    }
    if not found:
        some = ', '.join(list(layers)[:5])
        raise UserError(f'no layer matches --layers {" ".join(patterns)}; there are: {some} ...')
    return found


def build_model(config: Config, state_dict: dict[str, Tensor]) -> nn.Module:
    """The model of a config with the parameters of a checkpoint, in evaluation mode."""
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(config.model))
    load_state_dict(model, state_dict, strict=False)
    return model.eval()


def record(
    model: nn.Module, layers: dict[str, nn.Module], config: Config, count: int
) -> dict[str, Tensor]:
    """Runs the model on validation batches; returns samples of the input of its activations."""
    if config.get('val_dataloader') is None:
        raise UserError('--data needs a val_dataloader in the config')
    check_data(config, 'val_dataloader')
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    with InputRecorder(layers) as recorder, torch.no_grad():
        for batch in islice(loader, count):
            model.val_step(batch)
    return recorder.samples


def nothing_to_draw(checkpoint: str, model: nn.Module | None) -> str:
    """Says why there is no curve."""
    if model is None:
        return (
            f'{checkpoint} holds no PWLU, and no config, without which other activations cannot be '
            'told: give --config'
        )
    others = sorted({type(m).__name__ for m in model.modules() if isinstance(m, Activation)})
    if others:
        return (
            f'{checkpoint} has {", ".join(others)}, whose output depends on more than one number; '
            f'tools/analysis_tools/plot_dynamics.py draws them'
        )
    return f'{checkpoint} is of a model without an activation of mmact'


if __name__ == '__main__':
    main()
