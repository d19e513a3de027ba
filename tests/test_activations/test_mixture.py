# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mixture (Comb): w * identity + (1 - w) * ReLU, the affine and the convex combination."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import LAYOUTS, assert_near, random_tensor
from torch.func import functional_call

from mmact.activations import Comb, Mixture


def make_mixture(hull, weight):
    act = Mixture(hull=hull).double()
    act.weight.data.fill_(weight)
    return act


def formula(x, weight, hull):
    w = 1 / (1 + torch.exp(-weight)) if hull == 'convex' else weight
    return w * x + (1 - w) * x.clamp(min=0)


@pytest.mark.parametrize('weight', [-1.5, 0.0, 0.3, 2.0])
@pytest.mark.parametrize('hull', ['affine', 'convex'])
def test_values_and_gradients(hull, weight):
    act = make_mixture(hull, weight)
    for layout in LAYOUTS.values():
        x = layout.place(random_tensor(layout.shape(4))).requires_grad_()
        grad = random_tensor(x.shape, seed=1)
        y, expected = act(x), formula(x, act.weight.reshape(()), hull)
        assert_near(y, expected, 1e-14)
        assert y.stride() == torch.empty_like(x).stride()
        tensors = (x, act.weight)
        actual = torch.autograd.grad(y, tensors, grad)
        for a, e in zip(actual, torch.autograd.grad(expected, tensors, grad), strict=True):
            assert_near(a, e, 1e-13)


@pytest.mark.parametrize('hull', ['affine', 'convex'])
def test_gradcheck(hull):
    act = make_mixture(hull, 0.4)

    def function(x, weight):
        return functional_call(act, {'weight': weight}, (x,))

    inputs = (random_tensor((3, 7)), act.weight.detach())
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


def test_initial_functions():
    x = random_tensor((2, 3, 5), torch.float32)
    assert torch.equal(Mixture()(x), F.relu(x))
    assert_near(Mixture(hull='convex')(x), (x + F.relu(x)) / 2, 1e-7)


def test_affine_is_a_prelu_for_the_layer():
    act = Mixture()
    act.weight.data.fill_(0.35)
    x = random_tensor((2, 3, 5), torch.float32)
    assert torch.equal(act(x), F.prelu(x, torch.tensor([0.35])))


def test_one_parameter_under_both_names():
    """AReLU, Table 1: Comb has 1; PAU, A.2: "the weight" of Mixture."""
    assert Comb is Mixture
    assert [tuple(p.shape) for p in Comb().parameters()] == [(1,)]


@pytest.mark.parametrize('weight', [-50.0, 50.0])
def test_convex_stays_between(weight):
    y = make_mixture('convex', weight)(torch.tensor([-1.0, 1.0]).double())
    assert -1 <= y[0] <= 0
    assert y[1] == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [False, True])
def test_half_precision(dtype, module):
    act = make_mixture('affine', 0.25).to(dtype if module else torch.float32)
    x = random_tensor((2, 4, 5)).to(dtype)
    y = act(x)
    assert y.dtype == dtype
    assert_near(y, formula(x.double(), torch.tensor(0.25).double(), 'affine'), 1e-6)


def test_nan():
    x = random_tensor((2, 4), torch.float32)
    x[1, 2] = math.nan
    assert torch.equal(Mixture()(x).isnan(), x.isnan())


@pytest.mark.parametrize('hull', ['linear', None, True])
def test_hull_is_checked(hull):
    with pytest.raises(ValueError, match="Mixture: hull must be 'affine' or 'convex'"):
        Mixture(hull=hull)
