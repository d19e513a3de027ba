# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of learning digits with different activations, optimizers and learning rates.

Tables 1 and 4 to 6 and Figures 3, 7 and 8 of the AReLU paper (sections 4.1 and 4.2, appendix B):
MNIST-Conv, Adam and SGD (momentum 0.9), learning rates 1e-2 to 1e-5, batches of 128, accuracy on
the test set after the first epoch, mean and best of five runs. With --epochs 20 also that after 20
epochs. Run it again to continue after an interruption, or to add runs or activations.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import torch
from mmengine.config import Config

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, data_parser, positive
from .phases import TwoPhases
from .report import TABLE1, Table, draw_curves, draw_training
from .training import MNISTConv, accuracy, batches, check_activations, train

BATCH_SIZE = 128
# Where the defaults are not of the size that the paper's table gives: two parameters a layer each.
# SLAF starts as in the authors' program.
PAPER_ACT_CFGS = {
    'APL': dict(type='APL', S=1, num_groups=1),
    'SLAF': dict(type='SLAF', degree=1, init=(1.0, 1.0)),
}
#: A name of this experiment: PWLU as its paper trains it, ReLU in phase I, for so many steps.
REALIGNED = 'PWLU-realign'
PHASE1 = 50
OPTIMIZERS = {
    'Adam': lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    'SGD': lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = data_parser(__doc__)
    parser.add_argument(
        '--activations',
        nargs='+',
        default=[*TABLE1, 'PWLU', REALIGNED, 'RPAU'],
        metavar='TYPE',
        help="as in act_cfg=dict(type=...) (default: the 19 of the paper's Table 1, PWLU "
        f'and RPAU); {REALIGNED} is PWLU with phase I for the first {PHASE1} steps',
    )
    parser.add_argument(
        '--optimizer', nargs='+', default=list(OPTIMIZERS), choices=list(OPTIMIZERS)
    )
    parser.add_argument(
        '--lr',
        nargs='+',
        type=positive(float),
        default=[1e-2, 1e-3, 1e-4, 1e-5],
        help='learning rates (default: 1e-2 1e-3 1e-4 1e-5)',
    )
    parser.add_argument(
        '--runs', type=positive(int), default=5, help='runs with seeds 0, 1, ... (default: 5)'
    )
    parser.add_argument(
        '--epoch-samples',
        type=positive(int),
        default=60000,
        metavar='N',
        help="images shown in an epoch, in passes over the training set (default: 60000, MNIST's)",
    )
    parser.add_argument(
        '--epochs',
        type=positive(int),
        default=1,
        help='epochs to train; table.md is of the first, table_last.md of the last, the figures '
        'of all (default: 1)',
    )
    parser.add_argument(
        '--points',
        type=positive(int),
        default=10,
        help='points an epoch in the figures (default: 10)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/convergence'),
        help='folder of tables and figures (default: work_dirs/convergence)',
    )
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FILE',
        help='file of the single runs (default: results.jsonl in that folder)',
    )
    args = parser.parse_args(argv)
    for name in ('activations', 'optimizer', 'lr'):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then writes and prints the table."""
    args = parse_args(argv)
    # Such small networks gain nothing from more, and so no result depends on a machine's cores.
    torch.set_num_threads(1)
    act_cfgs = {
        name: PAPER_ACT_CFGS.get(name, dict(type='PWLU' if name == REALIGNED else name))
        for name in args.activations
    }
    with one_line_errors(Config(act_cfgs)):
        digits = load_digits(args.data)
        check_activations(act_cfgs)
        args.out.mkdir(parents=True, exist_ok=True)
        journal = Journal(args.results or args.out / 'results.jsonl')
    results = run_all(args, act_cfgs, digits, journal)
    tables = {'table': Table(results, act_cfgs, settings(args, digits))}
    # Of a version that kept no accuracies of a training with Adam there is the first epoch alone.
    if args.epochs > 1 and all(result['curve'] for result in results):
        tables['table_last'] = Table(results, act_cfgs, settings(args, digits), last=True)
    for name, table in tables.items():
        (args.out / f'{name}.json').write_text(json.dumps(table.to_dict(), indent=1) + '\n')
        (args.out / f'{name}.md').write_text(table.to_markdown())
        print(table.to_markdown())
    written = [f'{name}.{kind}' for name in tables for kind in ('md', 'json')]
    draw_training(results, args.out / 'training.png')
    written.append('training.png')
    if 'SGD' in args.optimizer:
        draw_curves(results, args.lr, args.out / 'curves.png')
        written.append('curves.png')
    print('written:', ', '.join(str(args.out / name) for name in written))


def settings(args: argparse.Namespace, digits: Digits) -> dict:
    """Returns the lines that a reader of the table must know."""
    passes = args.epoch_samples / len(digits.train_labels)
    steps = len(batches(len(digits.train_labels), args.epoch_samples, BATCH_SIZE, 0))
    return {
        'data': digits.description,
        'epoch_samples': args.epoch_samples,
        'passes': round(passes, 2),
        'steps': steps,
        'batch_size': BATCH_SIZE,
        'runs': args.runs,
        'epochs': args.epochs,
    }


def run_all(
    args: argparse.Namespace, act_cfgs: dict[str, dict], digits: Digits, journal: Journal
) -> list[dict]:
    """Every run of the table with its activation's name, from the journal if it is there already.

    The seeds are the outer loop: an interrupted table has some runs of everything.
    """
    identity = digits.identity
    runs = list(product(range(args.runs), act_cfgs, args.lr, args.optimizer))
    keys = [
        {
            'data': identity,
            'act_cfg': act_cfgs[name],
            'optimizer': optimizer,
            'lr': lr,
            'seed': seed,
            'batch_size': BATCH_SIZE,
            'epoch_samples': args.epoch_samples,
            'epochs': args.epochs,
            'points': args.points,
            **({'phase1': PHASE1} if name == REALIGNED else {}),
        }
        for seed, name, lr, optimizer in runs
    ]

    def describe(key: dict, result: dict) -> str:
        return (
            f'{key["act_cfg"]["type"]}{", realigned" * ("phase1" in key)}, '
            f'{key["optimizer"]} {key["lr"]:g}, run {key["seed"]}: '
            f'{result["accuracy"]:.2f} % in {result["seconds"]:.0f} s'
        )

    results = complete(keys, journal, lambda key: run(key, digits), describe)
    return [{**result, 'name': name} for result, (_, name, *_) in zip(results, runs, strict=True)]


def run(key: dict, digits: Digits) -> dict:
    """Trains one network.

    Args:
        key: Activation, optimizer, learning rate, seed and length of the training; ``phase1``, the
            steps of PWLU's phase I, if it has one.
        digits: The data.

    Returns:
        ``accuracy`` in % after the first epoch; ``curve``, pairs of steps done and accuracy;
        ``losses``, pairs of steps done and mean training loss since the pair before; ``finite``,
        whether the loss stayed so; ``parameters`` of each activation; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    net = MNISTConv(key['act_cfg'])
    optimizer = OPTIMIZERS[key['optimizer']](net.parameters(), key['lr'])
    steps = [
        indices
        for epoch in range(key['epochs'])
        for indices in batches(
            len(digits.train_labels),
            key['epoch_samples'],
            key['batch_size'],
            seed=key['seed'] * 1000 + epoch,
        )
    ]
    epoch_steps = len(steps) // key['epochs']
    wanted = {epoch_steps}
    for epoch, point in product(range(key['epochs']), range(1, key['points'] + 1)):
        wanted.add(epoch * epoch_steps + max(1, round(point * epoch_steps / key['points'])))
    phases = TwoPhases(net, optimizer, key.get('phase1'))
    measured = {0: accuracy(net, digits)}
    losses: list[tuple[int, float]] = []
    recent: list[float] = []

    def measure(step: int) -> None:
        phases.after_step(step)
        if step in wanted:
            measured[step] = accuracy(net, digits)
            losses.append((step, round(mean(recent), 6)))
            recent.clear()

    finite = train(net, digits, optimizer, steps, measure, recent)
    for step in wanted - set(measured):  # the steps after the loss became infinite
        measured[step] = accuracy(net, digits)
    return {
        'accuracy': measured[epoch_steps],
        'curve': sorted(measured.items()),
        'losses': losses,
        'finite': finite,
        'parameters': [sum(p.numel() for p in act.parameters()) for act in net.activations],
        'seconds': round(time.monotonic() - start, 2),
    }


if __name__ == '__main__':
    main()
