# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes dyrelu.md: the Dynamic ReLU paper's parameters and multiply-adds, and mmact's.

Everything is counted on the models that configs build, with their default arguments where the page
does not say otherwise.
"""

import argparse
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmact.activations import DyReLUB
from mmact.models.backbones._inverted_residual import SELayer

from .counter import (
    PAPER_COCO,
    PAPER_IMAGENET,
    PAPER_K3,
    PAPER_POSITIONS,
    PAPER_REDUCTION,
    PAPER_RESNET,
    POSITIONS,
    Counts,
    classifier,
    count,
    dyrelu,
    name,
    parameters,
    pose_estimator,
    resnet,
)

PAGE = Path(__file__).with_name('dyrelu.md')
TEMPLATE = Path(__file__).with_name('dyrelu_template.md')


def table(*rows: tuple) -> str:
    """Rows, the first of which is the head, as a Markdown table; numbers are to the right."""
    lines = [rows[0], ['---'] + ['---:'] * (len(rows[0]) - 1), *rows[1:]]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n' for line in lines)


def percent(ours: float, paper: float) -> str:
    """Returns the distance of ours from the paper's."""
    return f'{100 * (ours / paper - 1):+.2f} %'


def compare(label: str, paper: Counts, ours: Counts) -> tuple[str, ...]:
    """A row of paper against ours."""
    return (
        label,
        f'{paper.params:.1f}',
        f'{ours.params:.3f}',
        f'{ours.params - paper.params:+.2f}',
        f'{paper.madds:.1f}',
        f'{ours.madds:.2f}',
        percent(ours.madds, paper.madds),
    )


COMPARE = ('', 'params paper', 'ours', 'residual', 'MAdds paper', 'ours', 'residual')


@cache
def imagenet(kind: float | str, K: int = 0, reduction: int = 8) -> Counts:
    """Classifier with DyReLUB as the paper's text says, or with K = 0 the static one."""
    return count(classifier(kind, **(dyrelu('B', K, reduction) if K else {})))


def placed(kind: float | str, positions: tuple[str, ...]) -> Counts:
    """Classifier with DyReLUB at the given positions."""
    if positions == POSITIONS:
        return imagenet(kind, 2)
    return count(classifier(kind, **dyrelu(), act_positions=positions))


@cache
def coco(kind: float | str, variant: str | None = None) -> Counts:
    """Key-point detector at 256x192, static or with the given variant everywhere."""
    act = dyrelu(variant) if variant else {}
    return count(pose_estimator(kind, act, act), (256, 192))


@cache
def res(depth: int, reduction: int = 0) -> Counts:
    """ResNet without its linear layer's parameters; static or DyReLUB with that R."""
    model = resnet(depth, **(dyrelu('B', 2, reduction) if reduction else {}))
    counts = count(model)
    return counts._replace(
        params=counts.params - sum(p.numel() for p in model.fc.parameters()) / 1e6
    )


def static_rows() -> str:
    """The ReLU rows of Tables 5 and 10."""
    rows = [COMPARE]
    rows += [compare(f'{name(k)}, Table 5', p, imagenet(k)) for k, (p, _) in PAPER_IMAGENET.items()]
    rows += [compare(f'{name(k)}, Table 10', p, coco(k)) for k, (p, _) in PAPER_COCO.items()]
    rows += [compare(f'ResNet-{d}, Table 5', p, res(d)) for d, (p, _) in PAPER_RESNET.items()]
    return table(*rows)


@cache
def elementwise(kind: str, for_coco: bool = False) -> float:
    """Elements, in millions, of h-swish and of the products of squeeze-and-excitation."""
    model = pose_estimator(kind, {}, {}) if for_coco else classifier(kind)
    total = 0

    def add(module: Any, inputs: Any, output: Any):
        nonlocal total
        total += output.numel()

    for module in model.modules():
        if isinstance(module, (nn.Hardswish, SELayer)):
            module.register_forward_hook(add)
    count(model, (256, 192) if for_coco else (224, 224))
    return total / 1e6


def elementwise_rows() -> str:
    """MAdds of MobileNetV3 with one more for each of those elements."""
    rows = [('', 'MAdds paper', 'ours', 'with elements', 'residual')]
    for number, printed, counts in ((5, PAPER_IMAGENET, imagenet), (10, PAPER_COCO, coco)):
        for kind in ('large', 'small_early'):
            more = elementwise(kind, for_coco=number == 10)
            paper, ours = printed[kind][0].madds, counts(kind).madds
            label = f'{name(kind)}, Table {number}'
            numbers = (f'{paper:.1f}', f'{ours:.2f}', f'{ours + more:.2f}')
            rows.append((label, *numbers, percent(ours + more, paper)))
    return table(*rows)


def imagenet_rows() -> str:
    """The DY-ReLU-B rows of Tables 5, 6, 8 and 11."""
    rows = [COMPARE]
    rows += [
        compare(f'{name(k)}, K = 2', p, imagenet(k, 2)) for k, (_, p) in PAPER_IMAGENET.items()
    ]
    rows += [compare(f'{name(k)}, K = 3', p, imagenet(k, 3)) for k, p in PAPER_K3.items()]
    rows += [
        compare(f'{name(0.35)}, R = {r}', p, imagenet(0.35, 2, r))
        for r, p in PAPER_REDUCTION.items()
    ]
    rows += [compare(f'ResNet-{d}, K = 2', p, res(d, 8)) for d, (_, p) in PAPER_RESNET.items()]
    return table(*rows)


def coco_rows() -> str:
    """The DY-ReLU-C rows of Table 10."""
    return table(COMPARE, *(compare(name(k), p, coco(k, 'C')) for k, (_, p) in PAPER_COCO.items()))


def position_rows() -> str:
    """The combinations of Table 8, left: nothing to compare, for the paper prints no counts."""
    rows = [('A1', 'A2', 'A3', 'params', 'MAdds', 'top-1, paper')]
    for which, accuracy in PAPER_POSITIONS.items():
        ours = placed(0.35, ('stem', *which, 'last'))
        ticks = ['x' if position in which else '' for position in ('A1', 'A2', 'A3')]
        rows.append((*ticks, f'{ours.params:.3f}', f'{ours.madds:.2f}', accuracy))
    return table(*rows)


def placement_rows() -> str:
    """Returns the rest of the printed increase in MAdds, and K times the elements by position."""
    sets = [('A1', 'A2'), ('A1', 'A2', 'last'), ('A1', 'A2', 'A3'), POSITIONS]
    rows = [('', 'K', 'left', *(' '.join(s) for s in sets))]
    for kind, (static, dynamic) in PAPER_IMAGENET.items():
        elements = [placed(kind, positions).elements for positions in sets]
        printed = [(2, dynamic)] + ([(3, PAPER_K3[kind])] if kind in PAPER_K3 else [])
        for K, row in printed:
            left = (row.madds - static.madds) - (row.params - static.params)
            rows.append((name(kind), K, f'{left:.1f}', *(f'{K * e:.2f}' for e in elements)))
    return table(*rows)


@cache
def coco_elements(kind: float | str) -> tuple[float, float]:
    """Elements, in millions, at A1, A2 and the last convolution, and at A1 and A2 of the head."""
    act = dict(dyrelu(), act_positions=('A1', 'A2', 'last'))
    in_backbone = count(pose_estimator(kind, act, {}), (256, 192)).elements
    act = dict(dyrelu(), act_positions=('A1', 'A2'))
    return in_backbone, count(pose_estimator(kind, {}, act), (256, 192)).elements


def coco_placement_rows() -> str:
    """Increase in MAdds of Table 10 against the rule that comes closest."""
    rows = [('', 'paper', 'closest', '2 everywhere', '4 everywhere', "paper's text")]
    for kind, (static, dynamic) in PAPER_COCO.items():
        in_backbone, in_head = coco_elements(kind)
        hyper = dynamic.params - static.params
        values = (
            dynamic.madds - static.madds,
            hyper + 2 * in_backbone + 4 * in_head,
            hyper + 2 * (in_backbone + in_head),
            hyper + 4 * (in_backbone + in_head),
            coco(kind, 'C').madds - coco(kind).madds,
        )
        rows.append((name(kind), *(f'{value:.1f}' for value in values)))
    return table(*rows)


@cache
def hyper_functions(kind: float | str, like_text: bool) -> list[tuple[int, int]]:
    """Channels that each hyper function of a classifier sees, and makes coefficients for.

    Args:
        kind: As for :func:`name`.
        like_text: Whether it is as the text says; else A1 and A3 see the convolution's input, and
            there are none at the first and last convolution.
    """
    options = {}
    if not like_text:
        options = dict(act_positions=('A1', 'A2', 'A3'), hyper_input=dict(A1='conv', A3='conv'))
    acts = classifier(kind, **dyrelu(), **options).modules()
    return [(a.seen_channels, a.num_channels) for a in acts if isinstance(a, DyReLUB)]


@cache
def without_hyper_functions(kind: float | str) -> float:
    """Parameters, in millions, of the static part of a classifier with DY-ReLU."""
    return parameters(classifier(kind, **({'se': False} if isinstance(kind, str) else {})))


def weights(kind: float | str, K: int, reduction: int, like_text: bool) -> float:
    """Parameters, in millions, of a classifier whose hyper functions have no biases."""
    total = sum(
        max(1, seen // reduction) * (seen + 2 * K * channels)
        for seen, channels in hyper_functions(kind, like_text)
    )
    return without_hyper_functions(kind) + total / 1e6


def parameter_rows() -> tuple[str, str]:
    """Parameters of DY-ReLU-B under several rules, and the largest residual of the nearest one."""
    rows = [('', 'R', 'paper', 'own, R', 'own, 2 R', 'conv, R', 'conv, R / 2')]
    worst = 0.0
    printed = [(k, 2, 8, v.params) for k, (_, v) in PAPER_IMAGENET.items()]
    printed += [(k, 3, 8, v.params) for k, v in PAPER_K3.items()]
    printed += [(0.35, 2, r, v.params) for r, v in PAPER_REDUCTION.items() if r != 8]
    for kind, K, r, paper in printed:
        values = (
            weights(kind, K, r, like_text=True),
            weights(kind, K, 2 * r, like_text=True),
            weights(kind, K, r, like_text=False),
            weights(kind, K, r // 2, like_text=False),
        )
        nearest = values[2] if kind in (1.0, 0.75, 0.5) else values[3]
        worst = max(worst, abs(nearest - paper))
        label = name(kind) + (f', K = {K}' if K > 2 else '')
        rows.append((label, r, f'{paper:.1f}', *(f'{value:.2f}' for value in values)))
    return table(*rows), f'{worst:.2f}'


def resnet_rows() -> str:
    """Increase of ResNets' parameters and MAdds."""
    rows = [('', 'params paper', 'R = 8', 'R = 4', 'MAdds paper', 'R = 8', 'R = 4')]
    for depth, (static, dynamic) in PAPER_RESNET.items():
        ours = [res(depth, r) for r in (8, 4)]
        rows.append(
            (
                f'ResNet-{depth}',
                f'{dynamic.params - static.params:+.1f}',
                *(f'{o.params - res(depth).params:+.2f}' for o in ours),
                f'{dynamic.madds - static.madds:+.0f}',
                *(f'{o.madds - res(depth).madds:+.1f}' for o in ours),
            )
        )
    return table(*rows)


def page() -> str:
    """The text of dyrelu.md."""
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # mmcv tells of a default that it changed in 2022
        rows, worst = parameter_rows()
        return TEMPLATE.read_text(encoding='utf-8').format(
            static=static_rows(),
            elementwise=elementwise_rows(),
            released='{:.2f} M parameters and {:.1f} M MAdds'.format(*imagenet('small')),
            last_se=f'{parameters(classifier("small_early", se=True)):.2f}',
            imagenet=imagenet_rows(),
            coco=coco_rows(),
            positions=position_rows(),
            placement=placement_rows(),
            coco_placement=coco_placement_rows(),
            parameters=rows,
            worst=worst,
            resnets=resnet_rows(),
        )


def main() -> None:
    """Writes the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding='utf-8')
    print(PAGE)


if __name__ == '__main__':
    main()
