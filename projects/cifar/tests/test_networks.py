# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones of 32 x 32 pixels: sizes, and that everything in them learns."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain')

from mmact.registry import MODELS
from projects import cifar

#: Channels, and the sides of the maps that the last stage makes of 32 x 32 pixels.
OUTPUTS = {
    'CIFARDenseNet121': (1024, 4),
    'CIFARMobileNet': (1024, 2),
    'CIFARMobileNetV2': (1280, 4),
    'CIFARSEResNet18': (512, 4),
    'CIFARShuffleNetV2': (1024, 4),
    'CIFARSqueezeNet': (512, 4),
    'CIFARVGG8': (512, 1),
}


@pytest.mark.parametrize('name', cifar.__all__)
def test_everything_learns(name):
    torch.manual_seed(0)
    net = MODELS.build(dict(type=f'mmact.{name}'))
    channels, side = OUTPUTS[name]
    (out,) = net(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, channels, side, side)
    out.square().sum().backward()
    assert not {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}


def test_the_first_convolution_keeps_every_pixel():
    for name in cifar.__all__:
        net = getattr(cifar, name)()
        conv = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
        assert conv.stride == (1, 1), name
        assert conv.kernel_size == (3, 3), name
