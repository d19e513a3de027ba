#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes one HTML page about all activation functions of a checkpoint or a training."""

import argparse
import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_state_dict
from mmengine.utils import track_iter_progress
from torch import Tensor, nn

from mmact.cli import UserError, check_data, checkpoint_config, one_line_errors
from mmact.visualization import (
    FunctionRecorder,
    Snapshot,
    checkpoints_of,
    layers_in,
    read_checkpoint,
    watchable,
    write_report,
)
from mmact.visualization.snapshots import START_FILE, certain_starts, label_of


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Write one HTML page, which needs no network, about all activation functions '
        'of a checkpoint, or of a training with its history. With --data the model runs on some '
        'validation batches: the page then knows the inputs, and with them dead channels, the '
        'alignment of bounds, and what dynamic functions are for real samples.'
    )
    parser.add_argument('source', help='checkpoint, plain state_dict or work_dir of a training')
    parser.add_argument('--out', type=Path, help='page to write (default: report.html beside it)')
    parser.add_argument(
        '--config', help='config of the model (default: the one in the checkpoint, if any)'
    )
    parser.add_argument(
        '--data', type=int, default=0, metavar='N', help='run N validation batches (default: 0)'
    )
    parser.add_argument('--compare', help='another checkpoint or work_dir of the same model')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value ...'
    )
    parser.add_argument('--device', default='cpu', help='where the model runs (default: cpu)')
    return parser.parse_args()


def main() -> None:
    """Writes the page, with one-line errors for mistakes."""
    args = parse_args()
    with one_line_errors():
        print(report(args))


def report(args: argparse.Namespace) -> Path:
    """Writes the page and returns its path."""
    began = time.perf_counter()
    if args.data < 0:
        raise UserError(f'--data must be at least 0, got {args.data}')
    files = checkpoints_of(args.source)
    state_dict, meta = read_checkpoint(files[-1])
    config = checkpoint_config(meta, args.config, args.cfg_options)
    if config is None:
        if args.data:
            raise UserError(
                '--data needs a config, and this checkpoint does not hold one: give --config'
            )
        built, recorded, start = None, None, {}
        notes = [
            'Only PWLU is shown: without a config the checkpoint says nothing of others. The start '
            'is taken to be ReLU.'
        ]
    else:
        built, start, notes = build(config, files[-1].parent)
        recorded = run(args, config, state_dict, start) if args.data else None
    layers = layers_in(state_dict, built)
    if not any(True for layer in layers.values() for _ in layer.parameters()):
        raise UserError(
            f'{files[-1]} holds no learned activation that can be read without --config'
        )
    if built is None:
        start = {path: reset(layer) for path, layer in layers.items()}

    def snapshot(file: Path, label: str) -> Snapshot:
        return Snapshot(label, layers_in(read_checkpoint(file)[0], built))

    history = [snapshot(file, label_of(file)) for file in progress(files[:-1], 'reading')]
    if (files[-1].parent / START_FILE).is_file() or (history and start):
        history.insert(0, Snapshot('start', start))
    compare = None
    if args.compare:
        other = checkpoints_of(args.compare)[-1]
        compare = snapshot(other, f'{other.parent.name}/{other.name}')
    out = args.out or files[-1].parent / 'report.html'
    notes.insert(0, f'Made of {files[-1]}.')
    if recorded is not None:
        notes.append(f'Inputs are those of {args.data} validation batches.')
    write_report(
        out,
        layers,
        title=f'Activation functions of {files[-1].resolve().parent.name}, {label_of(files[-1])}',
        label=label_of(files[-1]),
        recorded=recorded,
        start=start,
        history=history,
        compare=compare,
        notes=notes,
        track=lambda items: progress(items, 'layers'),
    )
    size = out.stat().st_size / 1e6
    print(f'{size:.1f} MB, {time.perf_counter() - began:.0f} s', file=sys.stderr)
    return out


def build(
    config: Config, folder: Path
) -> tuple[dict[str, nn.Module], dict[str, nn.Module], list[str]]:
    """Builds the model's activations; returns them, those at the start, and notes about these."""
    init_default_scope(config.get('default_scope', 'mmengine'))

    def activations(seed: int) -> dict[str, nn.Module]:
        torch.manual_seed(seed)
        return watchable(MODELS.build(config.model))

    with one_line_errors(config):
        built = activations(0)
        if (folder / START_FILE).is_file():
            return built, layers_in(read_checkpoint(folder / START_FILE)[0], built), []
        start = certain_starts(built, activations(1))
    unknown = len(built) - len(start)
    if not unknown:
        return built, start, []
    return (
        built,
        start,
        [
            f'{unknown} layers start at random, so that it is not known where they came from; '
            'LearnedActivationHook keeps it.'
        ],
    )


def reset(layer: nn.Module) -> nn.Module:
    """A PWLU of as many functions at its default start."""
    return type(layer)(num_groups=layer.num_groups, num_intervals=layer.num_intervals).eval()


def run(
    args: argparse.Namespace,
    config: Config,
    state_dict: dict[str, Tensor],
    start: dict[str, nn.Module],
) -> FunctionRecorder:
    """Runs the model on validation batches, and returns what its activations saw."""
    if config.get('val_dataloader') is None:
        raise UserError('--data needs a val_dataloader in the config')
    # With the config, a missing data set is an error that names the keys to change.
    with one_line_errors(config):
        check_data(config, 'val_dataloader')
        model = revert_sync_batchnorm(MODELS.build(config.model))
        load_state_dict(model, state_dict, strict=False)
        model.to(args.device).eval()
        loader = Runner.build_dataloader(config.val_dataloader, seed=0)
        count = min(args.data, len(loader))
        with FunctionRecorder(model, starts=start) as recorder, torch.no_grad():
            for batch in progress(islice(loader, count), 'batches', count):
                model.val_step(batch)
    return recorder


def progress(items: Iterable, what: str, count: int | None = None) -> Iterable:
    """The items, with a bar on stderr while they are gone through."""
    count = len(items) if count is None else count
    if not count:
        return
    print(what, file=sys.stderr)
    yield from track_iter_progress((items, count), file=sys.stderr)
    print(file=sys.stderr)


if __name__ == '__main__':
    main()
