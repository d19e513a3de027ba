# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes ditac.md: parameters and FLOPs of the DiTAC paper's Table 10, and our counts.

Needs MMPretrain, whose ConvNeXt is counted.
"""

import argparse
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmact.activations import DiTAC
from mmact.models.backbones._inverted_residual import SELayer

from .counter import Classifier, Counts, count, mobilenet
from .dyrelu import table

PAGE = Path(__file__).with_name('ditac.md')
TEMPLATE = Path(__file__).with_name('ditac_template.md')

#: Table 10: parameters and FLOPs in millions, without and with DiTAC.
PAPER = {
    'MobileNetV3': (Counts(1.57, 57.2), Counts(1.57, 60.4)),
    'ConvNeXt-S': (Counts(49.5, 8600.0), Counts(49.5, 8700.0)),
}
#: Operations of an activation on an element, by the page's convention.
PER_ELEMENT = {'exact': 16, 'table': 4, 'PWLU': 1}
HSWISH = (nn.Hardswish,)
ALL = (nn.Hardswish, nn.ReLU, nn.GELU)


class Other(NamedTuple):
    """Elements, in millions, of what the counter leaves out."""

    normalised: float
    gated: float


def mobilenet_v3(classes: int, widen_factor: float = 1.0, arch: str = 'small') -> nn.Module:
    """MobileNetV3 with a classifier, on the ``meta`` device."""
    hidden = 1280 if arch == 'large' else 1024
    with torch.device('meta'):
        backbone = mobilenet(arch, widen_factor=widen_factor)
        return Classifier(backbone, (backbone.out_channels, hidden, classes))


def convnext_s(classes: int) -> nn.Module:
    """MMPretrain's ConvNeXt-S on the ``meta`` device; 0 classes for none."""
    from mmpretrain.models import ConvNeXt

    backbone = ConvNeXt('small').to('meta')  # its constructor needs real numbers
    head = nn.Linear(768, classes, device='meta') if classes else nn.Identity()
    # It returns the pooled features, in a tuple.
    return nn.Sequential(backbone, _Last(), head)


class _Last(nn.Module):
    """The last of a tuple of features."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return features[-1]


def with_ditac(model: nn.Module, replaced: tuple[type[nn.Module], ...]) -> nn.Module:
    """Puts DiTAC in the place of activations, but for those of squeeze-and-excitation.

    Args:
        model: The model, which is changed.
        replaced: Classes of the activations.

    Returns:
        The model.
    """
    layers = [module for module in model.modules() if isinstance(module, SELayer)]
    in_se = {module for layer in layers for module in layer.modules()}
    for module in set(model.modules()) - in_se:
        for name, child in list(module.named_children()):
            if isinstance(child, replaced):
                setattr(module, name, DiTAC().to('meta'))
    return model


@cache
def static(network: str, classes: int) -> Counts:
    """Counts of a network as it is."""
    return count(mobilenet_v3(classes) if network == 'MobileNetV3' else convnext_s(classes))


@cache
def ditac(network: str, classes: int, replaced: tuple[type[nn.Module], ...]) -> Counts:
    """Counts of a network with DiTAC, in its exact form."""
    model = mobilenet_v3(classes) if network == 'MobileNetV3' else convnext_s(classes)
    return count(with_ditac(model, replaced))


@cache
def other_elements() -> Other:
    """Elements that MobileNetV3-Small normalises, and that squeeze-and-excitation multiplies."""
    model = mobilenet_v3(50).eval()
    totals = {nn.BatchNorm2d: 0, SELayer: 0}

    def add(module: Any, inputs: Any, output: Any):
        totals[type(module)] += output.numel()

    for module in model.modules():
        if type(module) in totals:
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device='meta'))
    return Other(*(total / 1e6 for total in totals.values()))


def network_rows() -> str:
    """Candidates for the two networks."""
    small = PAPER['MobileNetV3'][0]
    rows = [('', 'classes', 'params', 'params paper', 'MAdds', 'FLOPs paper')]
    candidates = [('MobileNetV3-Small', 1.0, classes) for classes in (1000, 100, 50, 10)]
    candidates += [(f'MobileNetV3-Small x{w}', w, 1000) for w in (0.75, 0.5)]
    for label, widen_factor, classes in candidates:
        ours = count(mobilenet_v3(classes, widen_factor))
        rows.append(
            (label, classes, f'{ours.params:.3f}', small.params, f'{ours.madds:.2f}', small.madds)
        )
    ours = count(mobilenet_v3(1000, arch='large'))
    rows.append(
        (
            'MobileNetV3-Large',
            1000,
            f'{ours.params:.3f}',
            small.params,
            f'{ours.madds:.2f}',
            small.madds,
        )
    )
    paper = PAPER['ConvNeXt-S'][0]
    for classes in (1000, 100, 50, 0):
        ours = static('ConvNeXt-S', classes)
        rows.append(
            (
                'ConvNeXt-S',
                classes or 'no classifier',
                f'{ours.params:.3f}',
                paper.params,
                f'{ours.madds:.0f}',
                f'{paper.madds:.0f}',
            )
        )
    return table(*rows)


REPLACED = (
    ('MobileNetV3', 'h-swish', 50, HSWISH),
    ('MobileNetV3', 'h-swish and ReLU', 50, ALL),
    ('ConvNeXt-S', 'GELU', 50, ALL),
)


def ditac_rows() -> str:
    """Counts DiTAC's additions, by what it replaces and the way it is evaluated."""
    rows = [('', 'replaced', 'params added', 'elements', 'paper', *PER_ELEMENT)]
    for network, what, classes, replaced in REPLACED:
        before, after = static(network, classes), ditac(network, classes, replaced)
        paper = PAPER[network][1].madds - PAPER[network][0].madds
        added = (f'{after.elements * n:.2f}' for n in PER_ELEMENT.values())
        rows.append(
            (
                network,
                what,
                round((after.params - before.params) * 1e6),
                f'{after.elements:.3f}',
                f'{paper:.1f}',
                *added,
            )
        )
    return table(*rows)


def page() -> str:
    """The text of ditac.md."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # mmcv tells of a default that it changed in 2022
        madds, other = static('MobileNetV3', 50).madds, other_elements()
        hswish = ditac('MobileNetV3', 50, HSWISH).elements
        increase = PAPER['MobileNetV3'][1].madds - PAPER['MobileNetV3'][0].madds
        convnext = static('ConvNeXt-S', 50).madds
        return TEMPLATE.read_text(encoding='utf-8').format(
            networks=network_rows(),
            ditac=ditac_rows(),
            madds=f'{madds:.2f}',
            normalised=f'{other.normalised:.2f}',
            gated=f'{other.gated:.2f}',
            with_elements=f'{madds + other.normalised + other.gated:.2f}',
            low=f'{(increase - 0.1) / hswish:.2f}',
            high=f'{(increase + 0.1) / hswish:.2f}',
            all_low=f'{(increase - 0.1) / ditac("MobileNetV3", 50, ALL).elements:.2f}',
            all_high=f'{(increase + 0.1) / ditac("MobileNetV3", 50, ALL).elements:.2f}',
            convnext=f'{convnext / 1e3:.3f}',
            convnext_ditac=f'{(convnext + 4 * ditac("ConvNeXt-S", 50, ALL).elements) / 1e3:.3f}',
        )


def main() -> None:
    """Writes the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding='utf-8')
    print(PAGE)


if __name__ == '__main__':
    main()
