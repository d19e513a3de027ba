# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ablations of PWLU on digits: where its bounds come from, channel or layer, number of intervals.

Tables 5, 6 and 7 of the PWLU paper (sections 4.4 and 4.5), on MNIST-Conv in place of ImageNet:

- fix-init-x: bounds start at [-x, x] and learn from the first step;
- stat-realign: ReLU in phase I, then bounds at mean +- 3 standard deviations of the input (Eq. 6);
- one function for each channel, or one for the layer;
- N = 4 to 20 intervals, for each channel, realigned.

And Figure 6: the overlap of the bounds with the middle 90 % of each channel's input at the end
(Eq. 7). Training: SGD with momentum 0.9, batches of 128, a learning rate of 0.05 that falls to 0 in
half a cosine; phase I is the first 50 steps, after which Eq. 5 has forgotten all but 0.5 % of where
it began. Run it again to continue after an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmact.activations import PWLU
from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .phases import TwoPhases
from .training import MNISTConv, accuracy, batches, train

RESULTS = Path(__file__).with_name('ablation.jsonl')
BATCH_SIZE, LR, PHASE1 = 128, 0.05, 50
BOUNDS = (3.0, 6.0, 10.0)
INTERVALS = (4, 8, 12, 16, 20)
#: Tables 5 and 6: top-1 accuracy on ImageNet, (ResNet-18, MobileNetV3), layer- and channel-wise.
PAPER = {
    'ReLU': ((71.34, 67.74),),
    'fix-init-3': ((71.57, 68.54), (72.27, 68.98)),
    'fix-init-6': ((71.70, 68.48), (71.86, 68.88)),
    'fix-init-10': ((71.84, 68.42), (72.19, 68.20)),
    'stat-realign': ((72.22, 69.30), (72.57, 69.65)),
}
#: Table 7: (ResNet-18, MobileNetV3, EfficientNet-B0) by N.
PAPER_INTERVALS = {
    4: (72.24, 68.70, 77.90),
    8: (72.39, 69.55, 78.09),
    12: (72.45, 69.20, 77.96),
    16: (72.57, 69.65, 78.22),
    20: (72.43, 69.37, 77.86),
}


def variants() -> Iterator[dict[str, Any]]:
    """The rows of all tables: ``act_cfg``, and whether it is realigned."""
    yield dict(act_cfg=dict(type='ReLU'), realign=False)
    for groups in (1, None):
        cfg = dict(type='PWLU', num_intervals=16, num_groups=groups)
        for bound in BOUNDS:
            yield dict(act_cfg=dict(cfg, bounds=(-bound, bound)), realign=False)
        yield dict(act_cfg=cfg, realign=True)
    for intervals in INTERVALS:
        if intervals != 16:
            cfg = dict(type='PWLU', num_intervals=intervals, num_groups=None)
            yield dict(act_cfg=cfg, realign=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument(
        '--samples',
        type=positive(int),
        default=20000,
        help='images shown in a training, in passes over the training set (default: 20000)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the tables."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        digits = load_digits(args.data)
    journal = Journal(args.results)
    keys = [
        {'data': digits.identity, 'samples': args.samples, 'seed': seed, **variant}
        for seed, variant in product(range(args.runs), variants())
    ]

    def describe(key: dict[str, Any], result: dict[str, Any]) -> str:
        return f'{name_of(key)}, run {key["seed"]}: {result["accuracy"]:.2f} %'

    results = complete(keys, journal, lambda key: run(key, digits), describe)
    print(tables(results, digits))


def run(key: dict[str, Any], digits: Digits) -> dict[str, Any]:
    """Trains one network.

    Args:
        key: Activation, seed and length of the training.
        digits: The data.

    Returns:
        ``accuracy`` in % at the end; ``overlap``, the mean of Eq. 7 over all channels, None for
        ReLU; ``finite``, whether the loss stayed so; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    net = MNISTConv(key['act_cfg'])
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    steps = batches(len(digits.train_labels), key['samples'], BATCH_SIZE, seed=key['seed'])

    phases = TwoPhases(net, optimizer, min(PHASE1, len(steps) // 2) if key['realign'] else None)

    def after_step(step: int) -> None:
        phases.after_step(step)
        for group in optimizer.param_groups:
            group['lr'] = LR * 0.5 * (1 + math.cos(math.pi * step / len(steps)))

    finite = train(net, digits, optimizer, steps, after_step)
    return {
        'accuracy': accuracy(net, digits),
        'overlap': overlap(net, phases.layers, digits) if phases.layers else None,
        'finite': finite,
        'seconds': round(time.monotonic() - start, 2),
    }


@torch.no_grad()
def overlap(net: MNISTConv, layers: list[PWLU], digits: Digits) -> float:
    """Eq. 7, averaged over the channels of all layers, on the training images."""
    inputs: dict[PWLU, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
        for layer in layers
    ]
    net.eval()
    net(digits.train_images[:1000].contiguous(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    values = []
    for layer, x in inputs.items():
        channels = x.transpose(0, 1).flatten(1)
        low, high = channels.quantile(torch.tensor([0.05, 0.95]), dim=1)
        left, right = layer.left_bound.expand_as(low), layer.right_bound.expand_as(low)
        common = (torch.minimum(right, high) - torch.maximum(left, low)).clamp(min=0)
        values.append(common / (torch.maximum(right, high) - torch.minimum(left, low)))
    return torch.cat(values).mean().item()


def name_of(key: dict[str, Any]) -> str:
    """The row of the paper's tables."""
    cfg = key['act_cfg']
    if cfg['type'] == 'ReLU':
        return 'ReLU'
    where = 'layer' if cfg['num_groups'] == 1 else 'channel'
    how = 'stat-realign' if key['realign'] else f'fix-init-{cfg["bounds"][1]:g}'
    return f'{how}, {where}-wise, N = {cfg["num_intervals"]}'


def tables(results: list[dict[str, Any]], digits: Digits) -> str:
    """The tables as Markdown, the paper's numbers in brackets."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_name.setdefault(name_of(result), []).append(result)

    def cell(name: str, paper: tuple[float, ...]) -> str:
        values = [r['accuracy'] for r in by_name[name]]
        return f'{format_mean(values)} ({", ".join(f"{v:.2f}" for v in paper)})'

    def overlaps(name: str) -> str:
        return format_mean([r['overlap'] for r in by_name[name]])

    runs = len(by_name['ReLU'])
    lines = [
        f'Accuracy (%), mean ± standard deviation of {runs} runs; in brackets top-1 on ImageNet of '
        'the paper, ResNet-18 and MobileNetV3 (Tables 5 and 6). Overlap: Eq. 7, mean of channels.',
        f'Data: {digits.description}',
        '',
        '| | layer-wise | overlap | channel-wise | overlap |',
        '|---|---:|---:|---:|---:|',
        f'| ReLU | {cell("ReLU", PAPER["ReLU"][0])} | | | |',
    ]
    for how, (layer, channel) in list(PAPER.items())[1:]:
        names = [f'{how}, {where}-wise, N = 16' for where in ('layer', 'channel')]
        lines.append(
            f'| {how} | {cell(names[0], layer)} | {overlaps(names[0])} '
            f'| {cell(names[1], channel)} | {overlaps(names[1])} |'
        )
    lines += [
        '',
        'By N, channel-wise and realigned; in brackets ResNet-18, MobileNetV3 and EfficientNet-B0 '
        '(Table 7).',
        '',
        '| N | accuracy |',
        '|---:|---:|',
    ]
    lines += [
        f'| {n} | {cell(f"stat-realign, channel-wise, N = {n}", paper)} |'
        for n, paper in PAPER_INTERVALS.items()
    ]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
