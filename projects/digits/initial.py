# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""AReLU from different initial alpha and beta, on digits.

Figure 2 of the AReLU paper (section 4.1): (a) accuracy of MNIST-Conv over the training, for each
start; (b) alpha and beta of the three layers over the training from alpha = 0.25, beta = 1; (c) the
functions that they end as, between the lowest and the highest that they were. SGD with momentum 0.9
and a learning rate of 0.01, batches of 128; the paper gives neither these for the figure nor all
starts. Run it again to continue after an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .training import MNISTConv, accuracy, batches, train

RESULTS = Path(__file__).with_name('initial.jsonl')
BATCH_SIZE, LR = 128, 0.01
ALPHAS, BETAS = (0.25, 0.5, 0.75, 0.9), (-4.0, 0.0, 1.0, 2.0)
#: The start of which (b) and (c) are drawn.
TRACED = (0.25, 1.0)
POINTS = 20


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument(
        '--samples',
        type=positive(int),
        default=60000,
        help='images shown in a training, in passes over the training set (default: 60000)',
    )
    parser.add_argument(
        '--picture', type=Path, metavar='PNG', help='draw the figure (default: no figure)'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        digits = load_digits(args.data)
    keys = [
        {'data': digits.identity, 'samples': args.samples, 'seed': seed, 'alpha': a, 'beta': b}
        for seed, a, b in product(range(args.runs), ALPHAS, BETAS)
    ]

    def describe(key: dict, result: dict) -> str:
        return (
            f'alpha = {key["alpha"]:g}, beta = {key["beta"]:g}, run {key["seed"]}: '
            f'{result["curve"][-1]:.2f} %'
        )

    results = complete(keys, Journal(args.results), lambda key: run(key, digits), describe)
    print(table(results, args, digits))
    if args.picture:
        draw(results, args.picture)
        print('written:', args.picture)


def run(key: dict, digits: Digits) -> dict:
    """Trains one network.

    Args:
        key: Initial alpha and beta, seed, and length of the training.
        digits: The data.

    Returns:
        ``steps`` done at each of the points measured; ``curve``, the accuracy there in %;
        ``alphas`` and ``betas`` there, of each layer; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    net = MNISTConv(dict(type='AReLU', alpha=key['alpha'], beta=key['beta']))
    optimizer = torch.optim.SGD(net.parameters(), LR, 0.9)
    steps = batches(len(digits.train_labels), key['samples'], BATCH_SIZE, key['seed'])
    wanted = sorted({max(1, round(p * len(steps) / POINTS)) for p in range(1, POINTS + 1)})
    found: dict[str, list] = {'curve': [], 'alphas': [], 'betas': []}

    def measure(step: int) -> None:
        if step in (0, *wanted):
            found['curve'].append(accuracy(net, digits))
            for name in ('alpha', 'beta'):
                values = [getattr(act, name).item() for act in net.activations]
                found[f'{name}s'].append([round(value, 5) for value in values])

    measure(0)
    train(net, digits, optimizer, steps, measure)
    return {'steps': [0, *wanted], **found, 'seconds': round(time.monotonic() - start, 2)}


def table(results: list[dict], args: argparse.Namespace, digits: Digits) -> str:
    """Accuracy at a quarter of the training and at its end, as Markdown."""
    lines = [
        f'Accuracy (%) at a quarter of the training and at its end, {args.samples:,} images; mean '
        f'± standard deviation of {args.runs} runs.',
        f'Data: {digits.description}',
        '',
        f'| alpha | {" | ".join(f"beta = {b:g}" for b in BETAS)} |',
        f'|---:|{"---:|" * len(BETAS)}',
    ]
    for alpha in ALPHAS:
        cells = []
        for beta in BETAS:
            curves = [r['curve'] for r in results if (r['alpha'], r['beta']) == (alpha, beta)]
            quarter, end = ([c[len(c) // 4 if at else -1] for c in curves] for at in (1, 0))
            cells.append(f'{format_mean(quarter)}, {format_mean(end)}')
        lines.append(f'| {alpha:g} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def draw(results: list[dict], path: Path) -> None:
    """Draws the figure's three panels.

    Args:
        results: Runs, each with its key and result; means of the runs are drawn.
        path: The picture to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, (accuracies, traces, functions) = plt.subplots(1, 3, figsize=(17, 4.6))
    styles = dict(zip(ALPHAS, (':', '-.', '--', '-'), strict=False))
    colours = dict(zip(BETAS, plt.get_cmap('viridis')([0.0, 0.35, 0.65, 0.9]), strict=False))
    for alpha, beta in product(ALPHAS, BETAS):
        runs = [r for r in results if (r['alpha'], r['beta']) == (alpha, beta)]
        curve = torch.tensor([r['curve'] for r in runs]).mean(0)
        label = f'{alpha:g}, {beta:g}'
        accuracies.plot(runs[0]['steps'], curve, styles[alpha], color=colours[beta], label=label)
    accuracies.set(title='(a) Accuracy', xlabel='Step', ylabel='Test accuracy (%)', ylim=(60, 100))
    accuracies.legend(title='alpha, beta', fontsize=7, ncols=2, loc='lower right')

    run = next(r for r in results if (r['alpha'], r['beta']) == TRACED)
    x = torch.linspace(-3, 3, 121)
    for layer, colour in enumerate(('C0', 'C1', 'C3')):
        alphas, betas = ([point[layer] for point in run[name]] for name in ('alphas', 'betas'))
        traces.plot(run['steps'], alphas, color=colour, label=f'alpha, layer {layer + 1}')
        traces.plot(run['steps'], betas, '--', color=colour, label=f'beta, layer {layer + 1}')
        slopes = torch.tensor(alphas).clamp(0.01, 0.99), 1 + torch.tensor(betas).sigmoid()
        curves = torch.where(x < 0, slopes[0][:, None] * x, slopes[1][:, None] * x)
        functions.plot(x, curves[-1], color=colour, label=f'layer {layer + 1}')
        functions.fill_between(x, curves.amin(0), curves.amax(0), color=colour, alpha=0.2, lw=0)
    traces.set(title='(b) From alpha = 0.25, beta = 1', xlabel='Step', ylabel='Value')
    functions.set(title='(c) At the end; shaded: on the way', xlabel='x', ylabel='AReLU(x)')
    for axis in (traces, functions):
        axis.legend(fontsize=8)
    for axis in (accuracies, traces, functions):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == '__main__':
    main()
