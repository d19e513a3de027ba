# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pruning of a network, depending on its activations.

The experiment of the PAU paper's sections 3.2, 4.4 and A.4.3 (Figure 4) on digits: train
MNIST-Conv, remove the filters of each convolution whose absolute weights have the smallest sums,
set what is left back to its initial values, train again, and so on for p = 10, 20, ..., 60 %. Run
it again to continue after an interruption, or to add runs or activations.

What the paper leaves open:

- p is a share of the filters that the network had at first. Section 4.4 calls a point of Figure 4
  "pruned by 30%". So going from p = 20 to p = 30 removes another 10 % of the original filters.
- "Re-initialize" means back to the initial values that the kept filters had at first, and not new
  random ones. The paper says that it implements the lottery ticket hypothesis and names one
  deviation from it, the fixed p; Frankle and Carbin (2019) set back to the initial values, and use
  new random ones as the control that fails.
- Section A.4.3 says "the sum of its weights"; it is taken as the sum of absolute weights. A filter
  with large negative weights is not a small one.
- Only convolutions are pruned (section 4.4). A filter goes with its bias, its channel in the next
  layer, and its share of an activation with parameters per channel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from mmengine.config import Config

from mmact.cli import UserError, one_line_errors

from .data import Digits, load_digits
from .journal import Journal, Progress, data_parser, format_mean, mean_and_std, positive
from .training import WIDTHS, MNISTConv, accuracy, batches, check_activations, num_parameters, train

BATCH_SIZE = 64
# SGD as in A.4.1, but for 5 passes instead of 400 epochs. The paper starts at 0.1, at which a
# network with PAU diverged here; it does not say what the activations' constant rate is.
LEARNING_RATE = 0.05
ACTIVATION_LEARNING_RATE = 0.002
DECAY = 0.02  # last learning rate / first


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = data_parser(__doc__)
    parser.add_argument(
        '--activations',
        nargs='+',
        default=['PAU', 'LeakyReLU', 'ReLU'],
        metavar='TYPE',
        help='as in act_cfg=dict(type=...) (default: PAU LeakyReLU ReLU)',
    )
    parser.add_argument(
        '--percent',
        nargs='+',
        type=positive(int),
        default=[10, 20, 30, 40, 50, 60],
        help='p, ascending (default: 10 20 30 40 50 60)',
    )
    parser.add_argument(
        '--runs', type=positive(int), default=3, help='runs with seeds 0, 1, ... (default: 3)'
    )
    parser.add_argument(
        '--samples',
        type=positive(int),
        default=20000,
        metavar='N',
        help='images shown in each training, in passes over the training set (default: 20000)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/prune'),
        help='folder of the results (default: work_dirs/prune)',
    )
    args = parser.parse_args(argv)
    args.activations = list(dict.fromkeys(args.activations))
    if args.percent != sorted(set(args.percent)) or args.percent[-1] > 95:
        parser.error(f'--percent must ascend and stay below 96, got {args.percent}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and prunes what was not yet, then writes and prints the table."""
    args = parse_args(argv)
    # Such small networks gain nothing from more, and so no result depends on a machine's cores.
    torch.set_num_threads(1)
    with one_line_errors(Config({name: dict(type=name) for name in args.activations})):
        if 'Maxout' in args.activations:
            raise UserError(
                'Maxout cannot be pruned here: several filters make one of its channels, '
                'and the PAU paper leaves it out too'
            )
        digits = load_digits(args.data).normalized()
        check_activations({name: dict(type=name) for name in args.activations})
        args.out.mkdir(parents=True, exist_ok=True)
        journal = Journal(args.out / 'results.jsonl')
    try:
        results = run_all(args, digits, journal)
    except KeyboardInterrupt:
        print(f'\ninterrupted; the same command continues from {journal.path}', file=sys.stderr)
        sys.exit(130)
    rows = table(results, args.activations)
    text = to_markdown(rows, args, digits)
    (args.out / 'table.json').write_text(
        json.dumps({'data': digits.description, **settings(args), 'rows': rows}, indent=1) + '\n'
    )
    (args.out / 'table.md').write_text(text)
    draw(rows, args.activations, args.out / 'accuracy.png')
    print(text)
    names = ('table.md', 'table.json', 'accuracy.png')
    print('written:', ', '.join(str(args.out / name) for name in names))


def settings(args: argparse.Namespace) -> dict:
    """The settings that all trainings have in common."""
    return {
        'samples': args.samples,
        'batch_size': BATCH_SIZE,
        'lr': LEARNING_RATE,
        'activation_lr': ACTIVATION_LEARNING_RATE,
        'decay': DECAY,
    }


def run_all(args: argparse.Namespace, digits: Digits, journal: Journal) -> list[dict]:
    """Every training of the table, from the journal where it is there already.

    What a training takes over from those before it is only which filters are left, so a series can
    be continued after any of its trainings.
    """
    steps = [0, *args.percent]
    series = [
        (name, seed, [make_key(args, digits.identity, name, seed, p) for p in steps])
        for seed, name in product(range(args.runs), args.activations)
    ]
    keys = [key for _, _, keys in series for key in keys]
    progress = Progress(len(keys), sum(journal.get(key) is not None for key in keys))
    results = []
    for name, seed, keys in series:
        ranking = [list(range(width)) for width in WIDTHS]
        for p, key in zip(steps, keys, strict=True):
            kept = keep(ranking, p)
            result = journal.get(key)
            if result is None:
                result = run(dict(type=name), seed, kept, args.samples, digits)
                journal.add(key, result)
                progress.step(
                    f'{name}, run {seed}, {p} % pruned: {result["accuracy"]:.2f} % with '
                    f'{result["parameters"]:,} parameters in {result["seconds"]:.0f} s'
                )
            ranking = result['ranking']
            results.append({'activation': name, 'p': p, 'filters': list(map(len, kept)), **result})
    return results


def make_key(args: argparse.Namespace, identity: str, name: str, seed: int, p: int) -> dict:
    """All that the result of a training depends on."""
    return {
        'data': identity,
        'act_cfg': dict(type=name),
        'seed': seed,
        'percent': [q for q in args.percent if q <= p],
        **settings(args),
    }


def keep(ranking: Sequence[Sequence[int]], p: float) -> list[list[int]]:
    """Returns the filters that are left when p % of the original ones are gone.

    Args:
        ranking: For each convolution the original indices of its filters, the smallest first.
        p: Percentage of the original filters to have removed in all, below 100. The number is
            rounded to the nearest integer; one filter stays in any case.

    Returns:
        For each convolution the original indices of the filters to keep, ascending.
    """
    kept = []
    for width, order in zip(WIDTHS, ranking, strict=True):
        left = max(1, width - int(width * p / 100 + 0.5))
        kept.append(sorted(order[len(order) - left :]))
    return kept


def rank_filters(net: MNISTConv, kept: Sequence[Sequence[int]]) -> list[list[int]]:
    """Filters by the sum of their absolute weights.

    Args:
        net: A network of the filters in ``kept``.
        kept: For each convolution the original indices of its filters.

    Returns:
        ``kept``, each list with the filter first whose sum is smallest.
    """
    ranking = []
    for conv, indices in zip(net.convs, kept, strict=True):
        sizes = conv.weight.detach().abs().sum(dim=(1, 2, 3))
        ranking.append([indices[i] for i in sizes.argsort(stable=True).tolist()])
    return ranking


def remove_filters(net: MNISTConv, kept: Sequence[Sequence[int]]) -> MNISTConv:
    """A smaller network with a part of the filters.

    Args:
        net: The network; it is not changed.
        kept: For each convolution the indices of the filters to keep, ascending.

    Returns:
        A network of as many filters as are kept, with copies of their weights and biases, without
        the channels of the others in the next layer, and with the activations' parameters and
        buffers, of which those per channel are those of the kept channels.
    """
    with torch.random.fork_rng(devices=[]):
        smaller = MNISTConv(net.act_cfg, [len(indices) for indices in kept])
    with torch.no_grad():
        inputs: Sequence[int] = [0]
        for old, new, indices in zip(net.blocks, smaller.blocks, kept, strict=True):
            new.conv.weight.copy_(old.conv.weight[indices][:, inputs])
            new.conv.bias.copy_(old.conv.bias[indices])
            new.act.load_state_dict(
                {
                    name: _per_channel(value, old.act, indices)
                    for name, value in old.act.state_dict().items()
                }
            )
            inputs = indices
        smaller.fc.weight.copy_(net.fc.weight[:, inputs])
        smaller.fc.bias.copy_(net.fc.bias)
    return smaller


def _per_channel(value: torch.Tensor, act: torch.nn.Module, indices: Sequence[int]) -> torch.Tensor:
    functions = getattr(act, 'num_functions', 1)
    if functions == 1 or value.dim() == 0:
        return value
    rows = value.reshape(functions, -1)[list(indices)]  # parameters are flat
    return rows.reshape(len(indices) * (len(value) // functions), *value.shape[1:])


def run(
    act_cfg: dict, seed: int, kept: Sequence[Sequence[int]], samples: int, digits: Digits
) -> dict:
    """Trains the initial network without the filters that were removed.

    Args:
        act_cfg: Of the activations.
        seed: Of the initial values and of the order of the images.
        kept: For each convolution the indices of the filters that are left.
        samples: Images to show.
        digits: The data.

    Returns:
        ``accuracy`` in % on the test set, number of ``parameters``, ``ranking``: for each
        convolution the indices of ``kept``, the filter with the smallest sum of absolute weights
        first; ``finite``, whether the loss stayed so; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(seed)
    net = remove_filters(MNISTConv(act_cfg), kept)
    steps = batches(len(digits.train_labels), samples, BATCH_SIZE, seed)
    activation = net.activation_parameters()
    weights = [*(p for conv in net.convs for p in conv.parameters()), *net.fc.parameters()]
    # As in A.4.1: the activations without weight decay and with a constant learning rate.
    groups = [dict(params=weights, lr=LEARNING_RATE, weight_decay=5e-4)]
    groups += [dict(params=activation, lr=ACTIVATION_LEARNING_RATE)] if activation else []
    optimizer = torch.optim.SGD(groups, momentum=0.9)

    def decay(step: int) -> None:
        optimizer.param_groups[0]['lr'] = LEARNING_RATE * DECAY ** (step / len(steps))

    finite = train(net, digits, optimizer, steps, decay)
    return {
        'accuracy': accuracy(net, digits),
        'parameters': num_parameters(net.parameters()),
        'ranking': rank_filters(net, kept),
        'finite': finite,
        'seconds': round(time.monotonic() - start, 2),
    }


def table(results: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """Rows of the table, by p, with a cell for each activation."""
    rows = []
    for p in dict.fromkeys(result['p'] for result in results):
        at_p = [result for result in results if result['p'] == p]
        cells = {}
        for name in names:
            runs = [result for result in at_p if result['activation'] == name]
            accuracies = [result['accuracy'] for result in runs]
            center, spread = mean_and_std(accuracies)
            cells[name] = {
                'accuracies': accuracies,
                'mean': center,
                'std': spread,
                'parameters': runs[0]['parameters'],
                'loss_stayed_finite': all(result['finite'] for result in runs),
            }
        rows.append({'p': p, 'filters': at_p[0]['filters'], 'activations': cells})
    return rows


def to_markdown(rows: Sequence[dict], args: argparse.Namespace, digits: Digits) -> str:
    """The table, with the settings above it."""
    passes = args.samples / len(digits.train_labels)
    names = args.activations
    lines = [
        f'Accuracy (%) after pruning p % of the original filters and training again from their '
        f'initial values: mean{" ± standard deviation" * (args.runs > 1)} of {args.runs} '
        f'run{"s" * (args.runs > 1)}.',
        f'Data: {digits.description}. Each training shows {args.samples:,} images ({passes:g} '
        f'passes) in batches of {BATCH_SIZE}, normalised to mean 0 and variance 1; SGD, momentum '
        f'0.9, learning rate {LEARNING_RATE:g} falling to {LEARNING_RATE * DECAY:g}, that of the '
        f'activations {ACTIVATION_LEARNING_RATE:g} throughout.',
        '',
        '| p (%) | Filters | ' + ' | '.join(f'{name} | Parameters' for name in names) + ' |',
        '|---:|---|' + '---:|' * 2 * len(names),
    ]
    infinite = False
    for row in rows:
        cells = []
        for name in names:
            cell = row['activations'][name]
            star = '' if cell['loss_stayed_finite'] else r'\*'
            infinite |= bool(star)
            cells.append(f'{format_mean(cell["accuracies"])}{star} | {cell["parameters"]:,}')
        filters = '-'.join(map(str, row['filters']))
        lines.append(f'| {row["p"]} | {filters} | ' + ' | '.join(cells) + ' |')
    if infinite:
        lines += ['', '* The loss of at least one run became infinite or NaN; it ended there.']
    return '\n'.join(lines) + '\n'


def draw(rows: Sequence[dict], names: Sequence[str], path: Path) -> None:
    """Draws accuracy over p, with the standard deviation as error bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 4.8))
    for name, marker in zip(names, 'osD^v<>P*X' * len(names), strict=False):
        cells = [row['activations'][name] for row in rows]
        axis.errorbar(
            [row['p'] for row in rows],
            [cell['mean'] for cell in cells],
            yerr=[cell['std'] or 0 for cell in cells],
            marker=marker,
            capsize=3,
            label=name,
        )
    widths = ['-'.join(map(str, row['filters'])) for row in rows]
    axis.set_xticks([row['p'] for row in rows])
    axis.set_xticklabels([f'{row["p"]}\n{w}' for row, w in zip(rows, widths, strict=True)])
    axis.set(xlabel='Pruned filters (%), filters left', ylabel='Test accuracy (%)')
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == '__main__':
    main()
