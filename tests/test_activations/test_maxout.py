# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Maxout: groups of neighbouring channels, and how the new number of channels is told."""

import math

import pytest
import torch
from test_ops.utils import LAYOUTS, assert_near, random_tensor
from torch import nn

from mmact.activations import PWLU, Maxout, unresolved

CHANNEL_LAYOUTS = {n: layout for n, layout in LAYOUTS.items() if layout.channel_dim is not None}


@pytest.mark.parametrize('k', [2, 3, 6])
@pytest.mark.parametrize('name', CHANNEL_LAYOUTS)
def test_values_and_gradients(name, k):
    layout = CHANNEL_LAYOUTS[name]
    x = layout.place(random_tensor(layout.shape(6))).requires_grad_()
    dim = layout.channel_dim % x.dim()
    act = Maxout(k=k, channel_dim=layout.channel_dim)
    y = act(x)
    groups = [
        torch.stack([x.select(dim, j) for j in range(i, i + k)]).max(0).values
        for i in range(0, 6, k)
    ]
    expected = torch.stack(groups, dim)
    assert torch.equal(y, expected)
    grad = random_tensor(y.shape, seed=1)
    assert_near(*(torch.autograd.grad(result, x, grad)[0] for result in (y, expected)), tolerance=0)


def test_gradcheck():
    assert torch.autograd.gradcheck(Maxout(k=3), random_tensor((2, 6, 4)).requires_grad_())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_memory_format_and_dtype_are_kept(dtype):
    x = random_tensor((2, 8, 5, 7)).to(dtype)
    y = Maxout()(x.contiguous(memory_format=torch.channels_last))
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, Maxout()(x))


def test_nan_spoils_its_group_alone():
    x = random_tensor((2, 6, 3))
    x[1, 4, 2] = math.nan
    bad = Maxout(k=2)(x).isnan()
    assert bad.sum() == 1
    assert bad[1, 2, 2]


def test_the_new_width_reaches_the_next_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Maxout(k=4), PWLU())
    assert unresolved(model) == []
    assert (model[1].num_channels, model[1].out_channels) == (8, 2)
    assert model[2].num_channels == 2
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 2, 4, 4)


def test_after_a_linear_layer_channels_are_last():
    model = nn.Sequential(nn.Linear(5, 8), Maxout())
    # As many tokens as channels: a mistaken dimension would not be noticed by its size.
    assert model(torch.zeros(2, 8, 5)).shape == (2, 8, 4)


def test_alone_it_takes_any_input():
    act = Maxout(k=2)
    assert act.out_channels is None
    assert act(torch.zeros(3, 4)).shape == (3, 2)
    assert act(torch.zeros(3, 10, 2)).shape == (3, 5, 2)
    assert list(act.parameters()) == []


def test_in_conv_module():
    cnn = pytest.importorskip('mmcv.cnn')
    model = cnn.ConvModule(3, 8, 3, padding=1, act_cfg=dict(type='Maxout', k=2))
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 4, 4, 4)
    assert model.activate.out_channels == 4


@pytest.mark.parametrize('k', [0, 1, -2, 2.0, '2', None, True])
def test_k_is_checked(k):
    with pytest.raises(ValueError, match='Maxout: k must be an integer >= 2'):
        Maxout(k=k)


@pytest.mark.parametrize(
    'build',
    [
        lambda: Maxout(8, k=3),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Maxout(k=3)),
        lambda: Maxout(k=3)(torch.zeros(2, 8)),
    ],
    ids=['argument', 'registered', 'forward'],
)
def test_channels_that_cannot_be_grouped(build):
    with pytest.raises(ValueError, match=r'Maxout: 8 channels cannot be grouped by k=3; give'):
        build()


def test_inputs_are_checked():
    with pytest.raises(ValueError, match='Maxout needs 4 channels at dimension 1'):
        Maxout(num_channels=4)(torch.zeros(2, 8))
    with pytest.raises(ValueError, match='Maxout needs channels at dimension 1'):
        Maxout()(torch.zeros(8))


def test_it_is_no_curve_to_draw():
    visualization = pytest.importorskip('mmact.visualization')
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Maxout())
    assert visualization.scalar_activations(model) == {}
