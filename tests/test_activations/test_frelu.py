# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""FReLU: max(x, BN(depthwise conv(x))), section 3.1 of the funnel activation's paper."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import assert_near, random_tensor
from torch import nn

from mmact.activations import Activation, FReLU, unresolved


def make_frelu(channels=5, kernel_size=3):
    """With parameters and statistics as after some training."""
    act = FReLU(channels, kernel_size=kernel_size)
    for number, tensor in enumerate(act.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(random_tensor(tensor.shape, torch.float32, seed=number).abs() + 0.1)
    act.bn.bias.data.neg_()
    return act


@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_evaluation_by_hand(kernel_size):
    """The condition of each pixel: its channel's window, weighted and normalised."""
    act = make_frelu(kernel_size=kernel_size).eval()
    x = random_tensor((2, 5, 6, 7), torch.float32)
    side = kernel_size // 2
    windows = F.pad(x.double(), [side] * 4).unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
    weight = act.conv.weight.detach().double().view(1, 5, 1, 1, kernel_size, kernel_size)
    condition = (windows * weight).sum((-1, -2))
    bn = {k: v.double().view(1, 5, 1, 1) for k, v in act.bn.state_dict().items() if v.dim() == 1}
    condition = (condition - bn['running_mean']) / (bn['running_var'] + act.bn.eps).sqrt()
    condition = condition * bn['weight'] + bn['bias']
    y = act(x)
    assert_near(y, torch.maximum(x.double(), condition), 1e-5)
    taken = (y == x).float().mean()
    assert 0.05 < taken < 0.95, 'both sides of the maximum must be seen'


def test_training_normalises_the_condition_by_the_batch():
    act = make_frelu()
    x = random_tensor((4, 5, 6, 7), torch.float32)
    condition = F.conv2d(x, act.conv.weight, padding=1, groups=5)
    mean, var = (
        condition.mean((0, 2, 3), keepdim=True),
        condition.var((0, 2, 3), correction=0, keepdim=True),
    )
    condition = (condition - mean) / (var + act.bn.eps).sqrt()
    weight, bias = act.bn.weight.view(1, 5, 1, 1), act.bn.bias.view(1, 5, 1, 1)
    before = act.bn.running_mean.clone()
    assert_near(act(x), torch.maximum(x, condition * weight + bias), 1e-5)
    assert not torch.equal(act.bn.running_mean, before)


def test_parameters():
    act = FReLU(5)
    assert isinstance(act, Activation)
    assert {name: tuple(p.shape) for name, p in act.named_parameters()} == {
        'conv.weight': (5, 1, 3, 3),
        'bn.weight': (5,),
        'bn.bias': (5,),
    }


def test_every_parameter_receives_a_gradient():
    act = FReLU(5)
    x = random_tensor((4, 5, 6, 7), torch.float32).requires_grad_()
    (act(x) * random_tensor(x.shape, torch.float32, seed=1)).sum().backward()
    for name, parameter in act.named_parameters():
        assert parameter.grad.view(5, -1).abs().sum(1).min() > 0, name
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize('training', [True, False])
def test_memory_format_and_dtype_are_kept(training):
    act = make_frelu().train(training)
    x = random_tensor((2, 5, 6, 7), torch.float32).contiguous(memory_format=torch.channels_last)
    y = act(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, act.train(training)(x.contiguous()), 1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert act(x.bfloat16()).dtype == torch.bfloat16
    assert act.double()(x.double()).dtype == torch.float64


def test_nan_stays_in_its_windows():
    act = make_frelu().eval()
    x = random_tensor((2, 5, 9, 9), torch.float32)
    x[0, 1, 4, 4] = math.nan
    bad = act(x).isnan()
    assert bad[0, 1, 3:6, 3:6].all()
    assert bad.sum() == 9


def test_state_dict_and_copies():
    act = make_frelu().eval()
    x = random_tensor((2, 5, 6, 7), torch.float32)
    other = FReLU(5).eval()
    other.load_state_dict(act.state_dict())
    assert torch.equal(other(x), act(x))
    assert torch.equal(copy.deepcopy(act)(x), act(x))
    assert 'num_channels=5' in repr(act)
    assert 'kernel_size=3' in repr(act)
    assert 'num_channels=None' in repr(FReLU())


@pytest.mark.parametrize('kernel_size', [0, 2, 4, -1, 3.0, (3, 3), '3', True, None])
def test_kernel_size_is_checked(kernel_size):
    with pytest.raises(ValueError, match='kernel_size'):
        FReLU(4, kernel_size=kernel_size)


@pytest.mark.parametrize('num_channels', [0, -1, 2.0, '4', True])
def test_num_channels_is_checked(num_channels):
    with pytest.raises(ValueError, match='num_channels'):
        FReLU(num_channels)


@pytest.mark.parametrize('shape', [(2, 4, 6, 7), (2, 5), (2, 5, 6), (2, 6, 7, 5), (2, 5, 1, 6, 7)])
def test_inputs_are_checked(shape):
    with pytest.raises(ValueError) as caught:
        FReLU(5)(torch.zeros(shape))
    assert '(B, 5, H, W)' in str(caught.value)
    assert str(tuple(shape)) in str(caught.value)


def test_channels_from_the_surroundings():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), FReLU(inplace=True))
    assert unresolved(model) == []
    assert model[2].conv.weight.shape == (6, 1, 3, 3)
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 6, 4, 4)


def test_unknown_channels():
    with pytest.raises(RuntimeError, match=r'FReLU.*num_channels'):
        FReLU()(torch.zeros(2, 3, 4, 4))
