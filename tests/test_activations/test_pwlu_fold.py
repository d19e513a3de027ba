# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PWLU.fold_affine: a preceding affine map, such as a BatchNorm, becomes part of the function."""

import copy
import math

import pytest
import torch
from test_ops.utils import assert_near, random_tensor
from torch import nn

from mmact.activations import PWLU

from .utils import make_pwlu


def test_fold_affine():
    """Every sign of the scale, zero too; in training and evaluation; inside and outside bounds."""
    act = make_pwlu(6)
    scale = torch.tensor([1.0, -1.0, 0.5, -3.0, 0.0, 1e-3])
    shift = torch.tensor([0.0, 2.0, -1.0, 0.3, 0.7, -2.0])
    folded = act.fold_affine(scale, shift)
    assert isinstance(folded, PWLU)
    assert folded.phase == 'learn'
    x = 8 * random_tensor((200, 6, 3), torch.float32)
    expected = act(scale[:, None] * x + shift[:, None])
    for training in (True, False):
        assert_near(folded.train(training)(x), expected, 1e-5)
    # Each channel by itself: a large one must not hide another's error.
    for c in range(6):
        assert_near(folded(x)[:, c], expected[:, c], 1e-5, f'channel {c}')
    assert all(p.requires_grad for p in folded.parameters())


def test_fold_affine_changes_nothing_of_the_original():
    act = make_pwlu(3)
    before = copy.deepcopy(act.state_dict())
    folded = act.fold_affine(-2.0, 1.0)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert all(torch.equal(v, act.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize('num_groups', [None, 1])
@pytest.mark.parametrize('scale', [2.0, -0.5, 0.0])
def test_fold_affine_of_numbers(scale, num_groups):
    """A layer-wise function stays one for all channels."""
    act = make_pwlu(5, num_groups=num_groups)
    folded = act.fold_affine(scale, 0.25)
    x = 5 * random_tensor((20, 5, 3), torch.float32)
    assert_near(folded(x), act(scale * x + 0.25), 1e-5)


def test_fold_affine_of_a_layer_wise_function_by_channel():
    act = make_pwlu(num_groups=1)
    scale, shift = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, -0.5, 1.0])
    folded = act.fold_affine(scale, shift)
    assert folded.num_channels == 3
    x = 3 * random_tensor((20, 3, 4), torch.float32)
    assert_near(folded(x), act(scale[:, None] * x + shift[:, None]), 1e-5)
    mixed = act.fold_affine(2.0, shift)
    assert_near(mixed(x), act(2 * x + shift[:, None]), 1e-5)


@pytest.mark.parametrize('num_groups', [None, 1])
def test_fold_affine_of_a_batch_norm(num_groups):
    """In deployment conv, BN, PWLU become conv, PWLU."""

    def batch(number):
        return random_tensor((8, 4, 5, 5), torch.float32, seed=number) * (1 + number) + number

    norm, act = nn.BatchNorm2d(4), make_pwlu(4, num_groups=num_groups)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.7, 1e-4, 3.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.2]))
    for number in range(3):
        norm(batch(number))
    norm.eval(), act.eval()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    folded = act.fold_affine(scale, shift)
    x = batch(1)
    assert not folded.training
    assert_near(folded(x), act(norm(x)), 2e-5)


def test_fold_affine_keeps_dtype_channel_dim_and_settings():
    act = make_pwlu(4, num_intervals=6, channel_dim=-1, stat_momentum=0.5).double().eval()
    folded = act.fold_affine(torch.full((4,), -2.0), 0.0)
    assert (folded.num_intervals, folded.channel_dim, folded.stat_momentum) == (6, -1, 0.5)
    assert {p.dtype for p in folded.parameters()} == {torch.float64}
    assert not folded.training
    x = random_tensor((3, 7, 4))
    assert_near(folded(x), act(-2 * x), 1e-13)


def test_fold_affine_of_crossed_bounds():
    act = make_pwlu(3)
    with torch.no_grad():
        act.right_bound.copy_(act.left_bound - 1)
    x = 4 * random_tensor((100, 3), torch.float32)
    for scale in (1.0, -1.0):
        assert_near(act.fold_affine(scale, 0.5)(x), act(scale * x + 0.5), 1e-4)


@pytest.mark.parametrize('scale', [1e-30, 1e-38, 1e-41, -1e-41])
def test_fold_affine_of_a_vanishing_scale(scale):
    """BatchNorm weights that weight decay brought close to nothing: constant, and finite."""
    act = make_pwlu(2)
    folded = act.fold_affine(torch.tensor([1.0, scale]), torch.tensor([0.0, 0.4]))
    x = random_tensor((20, 2), torch.float32)
    for training in (True, False):
        assert_near(
            folded.train(training)(x),
            act(x * torch.tensor([1.0, 0]) + torch.tensor([0, 0.4])),
            1e-5,
        )


def test_fold_affine_of_a_frozen_function():
    act = make_pwlu(3)
    act.freeze()
    x = 4 * random_tensor((100, 3), torch.float32)
    assert_near(act.fold_affine(-2.0, 0.5)(x), act(-2 * x + 0.5), 1e-5)


def test_fold_affine_in_phase_one():
    """The function is that of the parameters there, too."""
    act = make_pwlu(3)
    act.start_collecting()
    x = 4 * random_tensor((100, 3), torch.float32)
    assert_near(act.fold_affine(-2.0, 0.5)(x), act(-2 * x + 0.5), 1e-5)


def test_fold_affine_of_groups():
    """Numbers keep the groups; a scale per channel gives each channel a function."""
    act = make_pwlu(6, num_groups=3).eval()
    x = 4 * random_tensor((100, 6), torch.float32)
    same = act.fold_affine(-2.0, 0.5)
    assert same.num_functions == 3
    assert_near(same(x), act(-2 * x + 0.5), 1e-5)
    scale = torch.tensor([1.0, -0.5, 2.0, 0.3, 1.5, -1.0])
    each = act.fold_affine(scale, 0.5)
    assert each.num_functions == 6
    assert_near(each(x), act(scale * x + 0.5), 1e-5)


@pytest.mark.parametrize(
    ('scale', 'shift', 'named'),
    [
        (torch.ones(3), 0.0, 'scale'),
        (1.0, torch.zeros(5), 'shift'),
        (math.nan, 0.0, 'scale'),
        (1.0, math.inf, 'shift'),
        (torch.ones(4), torch.zeros(3), 'shift'),
        (torch.ones(2, 2), 0.0, 'scale'),
    ],
)
def test_fold_affine_errors(scale, shift, named):
    with pytest.raises(ValueError, match=f'fold_affine: {named}'):
        PWLU(4).fold_affine(scale, shift)


def test_folding_twice_is_folding_the_product():
    act = make_pwlu(2)
    twice = act.fold_affine(2.0, 1.0).fold_affine(-0.5, 3.0)
    x = 4 * random_tensor((50, 2), torch.float32)
    assert_near(twice(x), act.fold_affine(-1.0, 7.0)(x), 1e-5)
