# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Transfer from one set of digits to another with different activations.

Table 2 of the AReLU paper (section 4.4), from MNIST to other digits in place of SVHN's house
numbers, which no package has: MNIST-Conv is trained for 20 epochs with a learning rate of 0.01 on
the first set, then fine-tuned with 1e-5 on the second and tested there after 5, 10 and 20 epochs.
Beside it: not fine-tuned, and fine-tuned from random weights. SGD; its momentum is 0.9 and a batch
128 as in the paper's other experiments. An epoch of fine-tuning is 73,257 images, SVHN's, in passes
over the second set, so that there are as many steps as in the paper: --epoch-samples shortens it.
The text says 100 epochs of fine-tuning where the table ends at 20. Run it again to continue after
an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .training import MNISTConv, accuracy, batches, check_activations, train

RESULTS = Path(__file__).with_name('transfer.jsonl')
BATCH_SIZE, LR, FINE_LR, MOMENTUM = 128, 0.01, 1e-5, 0.9
EPOCHS, MNIST_EPOCH, SVHN_EPOCH = 20, 60000, 73257
#: Epochs of fine-tuning after which the network is tested.
TESTED = (5, 10, 20)
#: Table 2: no pretraining, no fine-tuning, 5, 10 and 20 epochs of it.
PAPER = {
    'ELU': (19.59, 31.95, 70.08, 70.83, 71.48),
    'GELU': (19.59, 37.38, 69.19, 71.69, 70.34),
    'Maxout': (23.01, 36.52, 70.18, 71.31, 73.29),
    'ReLU': (19.58, 36.87, 69.76, 71.38, 72.06),
    'SELU': (19.58, 32.57, 72.81, 72.11, 71.55),
    'Softplus': (19.58, 14.39, 65.81, 69.14, 71.01),
    'APL': (19.58, 36.20, 71.73, 73.51, 72.41),
    'Comb': (19.58, 35.89, 69.63, 70.31, 72.55),
    'PAU': (19.58, 24.67, 75.24, 76.26, 74.46),
    'PReLU': (19.58, 33.45, 66.13, 67.63, 71.99),
    'SLAF': (19.58, 35.74, 75.91, 76.21, 74.38),
    'AReLU': (24.95, 31.91, 76.68, 78.12, 78.48),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS, [*PAPER, 'PWLU'])
    parser.add_argument(
        '--target',
        default='scikit-learn',
        metavar='DIR',
        help='the second set, as --data (default: scikit-learn)',
    )
    parser.add_argument(
        '--epoch-samples',
        type=positive(int),
        default=SVHN_EPOCH,
        help=f"images shown in an epoch of fine-tuning (default: {SVHN_EPOCH}, SVHN's)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        source, target = load_digits(args.data), load_digits(args.target)
        check_activations({name: dict(type=name) for name in args.activations})
    keys = [
        {
            'data': source.identity,
            'target': target.identity,
            'act_cfg': dict(type=name),
            'epoch_samples': args.epoch_samples,
            'seed': seed,
        }
        for seed, name in product(range(args.runs), args.activations)
    ]

    def describe(key: dict, result: dict) -> str:
        return (
            f'{key["act_cfg"]["type"]}, run {key["seed"]}: {result["accuracy"][-1]:.2f} % in '
            f'{result["seconds"]:.0f} s'
        )

    results = complete(keys, Journal(args.results), lambda key: run(key, source, target), describe)
    print(table(results, args, source, target))


def run(key: dict, source: Digits, target: Digits) -> dict:
    """Trains on the first set, and fine-tunes on the second from there and from random weights.

    Args:
        key: Activation, seed and length of fine-tuning.
        source: The first set.
        target: The second.

    Returns:
        ``accuracy`` in % on the second set, in the order of ``PAPER``; ``source``, that on the
        first after pretraining; ``seconds``.
    """
    start = time.monotonic()
    seed, length = key['seed'], key['epoch_samples']
    torch.manual_seed(seed)
    net = MNISTConv(key['act_cfg'])
    untrained = copy.deepcopy(net)
    steps = batches(len(source.train_labels), EPOCHS * MNIST_EPOCH, BATCH_SIZE, seed)
    train(net, source, torch.optim.SGD(net.parameters(), LR, MOMENTUM), steps)
    on_source, not_tuned = accuracy(net, source), accuracy(net, target)
    steps = batches(len(target.train_labels), TESTED[-1] * length, BATCH_SIZE, seed)
    ends = [round(epochs * len(steps) / TESTED[-1]) for epochs in TESTED]

    def fine_tune(net: MNISTConv) -> list[float]:
        found = {}

        def measure(step: int) -> None:
            if step in ends:
                found[step] = accuracy(net, target)

        optimizer = torch.optim.SGD(net.parameters(), FINE_LR, MOMENTUM)
        train(net, target, optimizer, steps, measure)
        return [found.get(step, float('nan')) for step in ends]

    return {
        'accuracy': [fine_tune(untrained)[-1], not_tuned, *fine_tune(net)],
        'source': on_source,
        'seconds': round(time.monotonic() - start, 2),
    }


def table(results: list[dict], args: argparse.Namespace, source: Digits, target: Digits) -> str:
    """The table as Markdown, the paper's numbers in brackets."""
    columns = ['no pretraining', 'no fine-tuning', *(f'{epochs} epochs' for epochs in TESTED)]
    lines = [
        f'Accuracy (%) on the second set, mean ± standard deviation of {args.runs} runs; in '
        f'brackets Table 2. An epoch of fine-tuning is {args.epoch_samples:,} images.',
        f'First set: {source.description}. Second: {target.description}.',
        '',
        f'| activation | {" | ".join(columns)} |',
        f'|---|{"---:|" * len(columns)}',
    ]
    for name in args.activations:
        found = [r['accuracy'] for r in results if r['act_cfg']['type'] == name]
        cells = [format_mean(values) for values in zip(*found, strict=True)]
        if name in PAPER:
            cells = [f'{cell} ({p:.2f})' for cell, p in zip(cells, PAPER[name], strict=True)]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
