#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the output of activations against their input over a data set."""

import argparse
import re
import sys
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import Runner, load_checkpoint
from mmengine.utils import track_iter_progress
from torch import nn

from mmact.cli import UserError, check_data, load_config, one_line_errors
from mmact.visualization import PairRecorder, activation_layers, plot_dynamics


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the output of activations against their input over the validation data, '
        'as Figure 3 of the Dynamic ReLU paper: a static function is a curve, a dynamic one fills '
        'an area.'
    )
    parser.add_argument('config', help='config of model and data')
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint (default: the model as it starts its training)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('dynamics.png'), help='picture (default: dynamics.png)'
    )
    parser.add_argument(
        '--layers', nargs='+', metavar='REGEX', help='draw only layers whose path matches one'
    )
    parser.add_argument('--max-layers', type=int, default=9, help='panels (default: 9)')
    parser.add_argument(
        '--channel', type=int, metavar='C', help='one channel (default: all of a layer together)'
    )
    parser.add_argument(
        '--data', type=int, metavar='N', help='validation batches (default: all of them)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value ...'
    )
    parser.add_argument('--device', default='cpu', help='where the model runs (default: cpu)')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    """Draws, with one-line errors for mistakes."""
    args = parse_args()
    with one_line_errors():
        for flag, value in (('--data', args.data), ('--max-layers', args.max_layers)):
            if value is not None and value < 1:
                raise UserError(f'{flag} must be at least 1, got {value}')
        if args.checkpoint is not None and not Path(args.checkpoint).is_file():
            raise UserError(f'checkpoint {args.checkpoint} does not exist')
        config = load_config(args)
        if config.get('val_dataloader') is None:
            raise UserError('the config needs a val_dataloader')
    # With the config, a missing data set is an error that names the keys to change.
    with one_line_errors(config):
        check_data(config, 'val_dataloader')
        draw(args, config)
    print(args.out)


def draw(args: argparse.Namespace, config: Config) -> None:
    """Runs the model on the validation data and writes the picture."""
    model = revert_sync_batchnorm(MODELS.build(config.model))
    layers = selected(activation_layers(model), args.layers)
    if args.checkpoint is None:
        model.init_weights()
    else:
        load_checkpoint(model, args.checkpoint, map_location='cpu', logger='current')
    model.to(args.device).eval()
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    count = min(args.data or len(loader), len(loader))
    with PairRecorder(layers, channel=args.channel) as recorder, torch.no_grad():
        for batch in track_iter_progress((islice(loader, count), count), file=sys.stderr):
            model.val_step(batch)
    name = Path(args.checkpoint or args.config).stem
    title = f'Input and output of the activations of {name}'
    if args.channel is not None:
        title += f', channel {args.channel}'
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # In the order of the model, not of the first call.
    samples = {path: recorder.samples[path] for path in layers if path in recorder.samples}
    plot_dynamics(samples, args.max_layers, title).savefig(args.out, dpi=150)


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


if __name__ == '__main__':
    main()
