# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""SLAF against the sum of its powers, and where it starts."""

import math

import pytest
import torch
from test_ops.utils import LAYOUTS, assert_near, random_tensor
from torch.func import functional_call

from mmact.activations import SLAF


def make_slaf(degree):
    act = SLAF(degree=degree).double()
    act.coefficients.data.copy_(random_tensor((degree + 1,)))
    return act


def formula(x, coefficients):
    return sum(c * x**k for k, c in enumerate(coefficients))


@pytest.mark.parametrize('degree', [1, 2, 3, 5])
def test_values_and_gradients(degree):
    act = make_slaf(degree)
    for layout in LAYOUTS.values():
        x = layout.place(random_tensor(layout.shape(4), seed=1)).requires_grad_()
        grad = random_tensor(x.shape, seed=2)
        y, expected = act(x), formula(x, act.coefficients)
        assert_near(y, expected, 1e-13)
        assert y.stride() == torch.empty_like(x).stride()
        tensors = (x, act.coefficients)
        actual = torch.autograd.grad(y, tensors, grad)
        for a, e in zip(actual, torch.autograd.grad(expected, tensors, grad), strict=True):
            assert_near(a, e, 1e-13)


def test_gradcheck():
    act = make_slaf(4)

    def function(x, coefficients):
        return functional_call(act, {'coefficients': coefficients}, (x,))

    inputs = (random_tensor((3, 7)), act.coefficients.detach())
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize('degree', range(1, 8))
def test_starts_nearest_to_relu(degree):
    """The best polynomial: its error is orthogonal to all powers under the normal density."""
    act = SLAF(degree=degree)
    x = torch.linspace(-15, 15, 300_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    difference = formula(x, act.coefficients.detach().double()) - x.clamp(min=0)
    for power in range(degree + 1):
        size = (density * x.abs() ** (power + degree)).sum()
        inner = (density * difference * x**power).sum()
        # float32 coefficients
        assert abs(inner) < 3e-7 * size, power


def test_the_arelu_papers_slaf_is_affine():
    """Table 1 gives it 2 parameters."""
    act = SLAF(degree=1)
    assert act.coefficients.shape == (2,)
    assert_near(act(torch.tensor([0.0, 1.0])).diff(), torch.tensor([0.5]), 1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [False, True])
def test_half_precision(dtype, module):
    act = make_slaf(3).to(dtype if module else torch.float32)
    x = random_tensor((2, 4, 5)).to(dtype)
    y = act(x)
    assert y.dtype == dtype
    expected = formula(x.double(), act.coefficients.double())
    assert_near(y, expected, torch.finfo(dtype).eps)


def test_nan():
    x = random_tensor((2, 4), torch.float32)
    x[1, 2] = math.nan
    assert torch.equal(SLAF()(x).isnan(), x.isnan())


@pytest.mark.parametrize('degree', [0, -1, 2.0, '3', None, True, 1000])
def test_degree_is_checked(degree):
    with pytest.raises(ValueError, match='SLAF: degree must be an integer from 1 to'):
        SLAF(degree=degree)


def test_initial_coefficients():
    x = random_tensor((3, 4), torch.float32)
    assert torch.equal(SLAF(degree=1, init=(1, 1))(x), 1 + x)
    for init in ((1.0,), (1.0, math.inf)):
        with pytest.raises(ValueError, match='SLAF: init must be 2 finite numbers, for the powers'):
            SLAF(degree=1, init=init)
