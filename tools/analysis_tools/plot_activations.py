#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the activation functions that a checkpoint has learned."""

import argparse
import re
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import Tensor, nn

from mmact.cli import UserError, check_data, checkpoint_config, one_line_errors
from mmact.visualization import (
    InputRecorder,
    activations_from_state_dict,
    plot_alignment,
    plot_functions,
    scalar_activations,
)


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the activation functions of a checkpoint. The checkpoint alone is enough '
        'for functions.png; with --data the model runs on some validation batches, their input '
        'distributions are drawn behind the functions, and alignment.png shows how well the bounds '
        'cover them.'
    )
    parser.add_argument('checkpoint', help='checkpoint of a training, or a plain state_dict')
    parser.add_argument('--out', type=Path, help="folder to write to (default: the checkpoint's)")
    parser.add_argument(
        '--data', type=int, default=0, metavar='N', help='run N validation batches (default: 0)'
    )
    parser.add_argument(
        '--config', help='config of model and data for --data (default: the one in the checkpoint)'
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
    layers = activations_from_state_dict(state_dict)
    if not layers:
        raise UserError(f'{args.checkpoint} holds no learned activation (no PWLU)')
    inputs = None
    if args.data:
        layers, inputs = run_model(args, checkpoint, state_dict)
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
    if inputs is not None:
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


def run_model(
    args: argparse.Namespace, checkpoint: dict, state_dict: dict[str, Tensor]
) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Runs the model on validation batches; returns its activations and samples of their input."""
    config = checkpoint_config(checkpoint.get('meta', {}), args.config, args.cfg_options)
    if config is None:
        raise UserError(
            '--data needs a config, and this checkpoint does not hold one: give --config'
        )
    if config.get('val_dataloader') is None:
        raise UserError('--data needs a val_dataloader in the config')
    # With the config, a missing data set is an error that names the keys to change.
    with one_line_errors(config):
        check_data(config, 'val_dataloader')
        init_default_scope(config.get('default_scope', 'mmengine'))
        model = revert_sync_batchnorm(MODELS.build(config.model))
        load_state_dict(model, state_dict, strict=False)
        model.to(args.device).eval()
        loader = Runner.build_dataloader(config.val_dataloader, seed=0)
        layers = scalar_activations(model)
        with InputRecorder(layers) as recorder, torch.no_grad():
            for batch in islice(loader, args.data):
                model.val_step(batch)
    return layers, recorder.samples


if __name__ == '__main__':
    main()
