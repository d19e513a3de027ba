# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of LeNet and VGG-8 with different activations, on digits or Fashion-MNIST.

Tables 2 and 5 and Figures 2, 3, 6 and 7 of the PAU paper (sections 4.1, 4.2, 4.6 and A.3): 100
epochs in batches of 256, Adam with a learning rate of 0.002 or SGD with 0.01 and momentum 0.5, no
weight decay, five runs. The paper does not say which of the two a column is of, nor how pictures of
28 x 28 pixels get the 32 x 32 that its sizes add up for: here zeros are put around them. --data DIR
may be a folder of Fashion-MNIST's files, which have the names of MNIST's. Table 5 does not say how
it counts; most of its sums are 42, which are five runs of 8 models, and two accuracies on ImageNet.
Here a run is compared with the better of PAU and RPAU from the same seed. Run it again to continue
after an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import torch

from mmact.activations import PAU, RPAU
from mmact.cli import UserError, one_line_errors
from mmact.visualization import plot_functions

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .report import line_styles
from .training import PlainNet, accuracy, batches, lenet, train, vgg8

RESULTS = Path(__file__).with_name('accuracy.jsonl')
BATCH_SIZE = 256
OPTIMIZERS = {
    'Adam': lambda parameters: torch.optim.Adam(parameters, lr=0.002),
    'SGD': lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.5),
}
#: Table 2, MNIST: mean of five runs, (VGG-8, LeNet).
PAPER = {
    'ReLU': ('99.17 ± 0.10', '99.17 ± 0.05'),
    'ReLU6': ('99.28 ± 0.04', '99.09 ± 0.09'),
    'LeakyReLU': ('99.13 ± 0.11', '99.10 ± 0.06'),
    'RReLU': ('99.16 ± 0.13', '99.20 ± 0.13'),
    'ELU': ('99.15 ± 0.09', '99.15 ± 0.06'),
    'CELU': ('99.15 ± 0.09', '99.15 ± 0.06'),
    'Swish': ('99.10 ± 0.06', '99.19 ± 0.09'),
    'PReLU': ('99.16 ± 0.09', '99.14 ± 0.09'),
    'SLAF': ('not finite', 'not finite'),
    'APL': ('99.35 ± 0.11', '99.18 ± 0.10'),
    'SReLU': ('99.15 ± 0.03', '99.13 ± 0.14'),
    'PAU': ('99.30 ± 0.05', '99.21 ± 0.04'),
    'RPAU': ('99.35 ± 0.04', '99.26 ± 0.11'),
}
#: Table 5: in how many comparisons PAU or RPAU is at least as good, and in how many it is not.
PAPER_COUNTS = {
    'ReLU': (34, 8),
    'ReLU6': (35, 7),
    'LeakyReLU': (34, 8),
    'RReLU': (33, 9),
    'ELU': (40, 2),
    'CELU': (40, 2),
    'Swish': (41, 1),
    'PReLU': (39, 3),
    'APL': (32, 7),
    'SReLU': (33, 8),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS, [*PAPER, 'PWLU', 'AReLU'])
    parser.add_argument('--network', choices=('lenet', 'vgg8'), default='lenet')
    parser.add_argument(
        '--width',
        type=positive(int),
        default=64,
        help="channels of VGG-8's first convolution (default: 64, the paper's)",
    )
    parser.add_argument('--optimizer', choices=list(OPTIMIZERS), default='Adam')
    parser.add_argument(
        '--epochs', type=positive(int), default=100, help='passes over the data (default: 100)'
    )
    parser.add_argument(
        '--picture', type=Path, metavar='PNG', help='draw the curves (default: no picture)'
    )
    parser.add_argument(
        '--functions',
        type=Path,
        metavar='PNG',
        help='draw the functions that the first run with RPAU learned (default: no picture)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    network = dict(network=args.network)
    if args.network == 'vgg8':
        network['width'] = args.width
    with one_line_errors():
        digits = load_digits(args.data)
        for name in args.activations:
            build(dict(**network, act_cfg=dict(type=name)))(torch.zeros(2, 1, 28, 28))
    keys = [
        {
            'data': digits.identity,
            **network,
            'optimizer': args.optimizer,
            'epochs': args.epochs,
            'seed': seed,
            'act_cfg': dict(type=name),
        }
        for seed, name in product(range(args.runs), args.activations)
    ]

    def describe(key: dict, result: dict) -> str:
        return f'{key["act_cfg"]["type"]}, run {key["seed"]}: {result["accuracy"]:.2f} %'

    results = complete(keys, Journal(args.results), lambda key: run(key, digits), describe)
    print(table(results, args, digits))
    if args.picture:
        draw(results, args.picture, f'{digits.name}, {args.network}, {args.optimizer}')
        print('written:', args.picture)
    if args.functions:
        with one_line_errors():
            draw_functions(results, args.functions)
        print('written:', args.functions)


def build(key: dict) -> PlainNet:
    """The network of a run."""
    if key['network'] == 'lenet':
        return lenet(key['act_cfg'])
    return vgg8(key['act_cfg'], key['width'])


def run(key: dict, digits: Digits) -> dict:
    """Trains one network.

    Args:
        key: Network, activation, optimizer, epochs and seed.
        digits: The data.

    Returns:
        ``accuracy`` in % at the end; ``curve``, that after each epoch; ``losses``, the mean
        training loss of each epoch's steps; ``finite``, whether the loss stayed so; ``seconds``;
        ``coefficients`` of PAU and RPAU, for each layer those of the numerator and those of the
        denominator, else an empty list.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    net = build(key)
    optimizer = OPTIMIZERS[key['optimizer']](net.parameters())
    images = len(digits.train_labels)
    steps = batches(images, images * key['epochs'], BATCH_SIZE, seed=key['seed'])
    ends = {round((epoch + 1) * len(steps) / key['epochs']) for epoch in range(key['epochs'])}
    curve: list[float] = []
    losses: list[float] = []
    of_epoch: list[float] = []

    def measure(step: int) -> None:
        if step in ends:
            curve.append(accuracy(net, digits))
            losses.append(round(mean(of_epoch), 6))
            of_epoch.clear()

    finite = train(net, digits, optimizer, steps, measure, of_epoch)
    return {
        'accuracy': curve[-1] if finite else accuracy(net, digits),
        'curve': curve,
        'losses': losses,
        'finite': finite,
        'seconds': round(time.monotonic() - start, 2),
        'coefficients': [
            [[round(c, 6) for c in p.tolist()] for p in layer.parameters()]
            for layer in net.activations
            if isinstance(layer, PAU)
        ],
    }


def table(results: list[dict], args: argparse.Namespace, digits: Digits) -> str:
    """The table as Markdown, with the paper's numbers."""
    column = 0 if args.network == 'vgg8' else 1
    size = f' of {args.width} channels' if args.network == 'vgg8' else ''
    lines = [
        f'Accuracy (%) of {args.network}{size} after {args.epochs} epochs with {args.optimizer}, '
        f'mean ± standard deviation and best of {args.runs} runs; the paper: MNIST, 60,000 digits. '
        'As good: runs in which PAU or RPAU is at least as good; the paper: all its networks.',
        f'Data: {digits.description}',
        '',
        '| activation | mean | best | paper | as good | paper |',
        '|---|---:|---:|---:|---:|---:|',
    ]
    for name in args.activations:
        own = [r for r in results if r['act_cfg']['type'] == name]
        values = [r['accuracy'] for r in own if r['finite']]
        shown = [format_mean(values), f'{max(values):.2f}'] if values else ['not finite', '']
        if values and len(values) < len(own):
            shown[0] += f' ({len(own) - len(values)} not finite)'
        shown += [PAPER.get(name, ('', ''))[column], as_good(results, name), '']
        if name in PAPER_COUNTS:
            shown[-1] = f'{PAPER_COUNTS[name][0]} of {sum(PAPER_COUNTS[name])}'
        lines.append(f'| {name} | {" | ".join(shown)} |')
    return '\n'.join(lines) + '\n'


def as_good(results: list[dict], name: str) -> str:
    """In how many of the runs of an activation PAU or RPAU is at least as good: '3 of 5'.

    Args:
        results: Runs, each with its key and result; those whose loss did not stay finite are left
            out.
        name: The activation; an empty text for PAU and RPAU, and where neither was run.
    """
    found: dict[str, dict[int, float]] = {}
    for r in results:
        if r['finite']:
            found.setdefault(r['act_cfg']['type'], {})[r['seed']] = r['accuracy']
    family = [found.get('PAU', {}), found.get('RPAU', {})]
    pairs = [
        (max(runs[seed] for runs in family if seed in runs), value)
        for seed, value in found.get(name, {}).items()
        if any(seed in runs for runs in family)
    ]
    if name in ('PAU', 'RPAU') or not pairs:
        return ''
    return f'{sum(ours >= value for ours, value in pairs)} of {len(pairs)}'


def draw(results: list[dict], path: Path, title: str) -> None:
    """Draws accuracy and training loss over the epochs (Figures 2, 6 and 7).

    Lines are means over the runs, bands one standard deviation to either side.

    Args:
        results: Runs, each with its key and result; those whose loss did not stay finite are left
            out. The loss is drawn if all others have it, which those of older versions have not.
        path: The picture to write.
        title: Of the picture.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    results = [r for r in results if r['finite']]
    panels = {'curve': 'Test accuracy (%)'}
    if all('losses' in r for r in results):
        panels['losses'] = 'Training loss'
    names = list(dict.fromkeys(r['act_cfg']['type'] for r in results))
    special = {'PAU': dict(color='black', ls='-'), 'RPAU': dict(color='red', ls='--')}
    styles = line_styles(names, special)
    figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels) + 2, 5), squeeze=False)
    for axis, (key, label) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            runs = torch.tensor([r[key] for r in results if r['act_cfg']['type'] == name])
            epochs, middle = range(1, runs.size(1) + 1), runs.mean(0)
            axis.plot(epochs, middle, label=name, **styles[name])
            if len(runs) > 1:
                edges = middle - runs.std(0), middle + runs.std(0)
                axis.fill_between(epochs, *edges, color=styles[name]['color'], alpha=0.12, lw=0)
        axis.set(xlabel='Epoch', ylabel=label)
        axis.grid(alpha=0.3)
    # The first epochs would take most of the height.
    late = [value for r in results for value in r['curve'][len(r['curve']) // 3 :]]
    axes[0, 0].set_ylim(min(late) - 0.2, max(late) + 0.2)
    if 'losses' in panels:
        axes[0, 1].set_yscale('log')
    figure.suptitle(title)
    axes[0, -1].legend(loc='upper left', bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_functions(results: list[dict], path: Path) -> None:
    """Draws the RPAUs that a network learned, with their noise (Figure 3).

    Args:
        results: Runs, each with its key and result; the first with RPAU is drawn.
        path: The picture to write.

    Raises:
        UserError: If there is none, or it is of an older version, which kept no coefficients.
    """
    runs = [r for r in results if r['act_cfg']['type'] == 'RPAU' and r.get('coefficients')]
    if not runs:
        raise UserError('--functions needs a run with RPAU whose coefficients were kept')
    layers = {}
    for number, coefficients in enumerate(runs[0]['coefficients'], start=1):
        layer = RPAU()
        for parameter, values in zip(layer.parameters(), coefficients, strict=True):
            parameter.data = torch.tensor(values)
        layers[f'layer {number}'] = layer
    plot_functions(layers, title='Learned RPAUs').savefig(path, dpi=150)


if __name__ == '__main__':
    main()
