# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PDELU against its deformed exponential, and where the bracket of that is 0."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import LAYOUTS, assert_near, per_channel, random_tensor
from torch.func import functional_call

from mmact.activations import PDELU


def make_pdelu(channels=4, **kwargs):
    act = PDELU(channels, **kwargs).double()
    act.alpha.data.copy_(random_tensor(act.alpha.shape, seed=7))
    return act


def formula(x, alpha, t, dim):
    bracket = (1 + (1 - t) * x.clamp(max=0)).clamp(min=0)
    exponential = torch.exp(x.clamp(max=0)) if t == 1 else bracket ** (1 / (1 - t))
    return torch.where(x > 0, x, per_channel(alpha, x, dim) * (exponential - 1))


@pytest.mark.parametrize('t', [0.0, 0.5, 0.9, 1.0, 1.5])
@pytest.mark.parametrize('name', LAYOUTS)
def test_values_and_gradients(name, t):
    layout = LAYOUTS[name]
    num_groups = 1 if layout.channel_dim is None else None
    act = make_pdelu(4, t=t, num_groups=num_groups, channel_dim=layout.channel_dim)
    x = layout.place(2 * random_tensor(layout.shape(4), seed=1)).requires_grad_()
    grad = random_tensor(x.shape, seed=2)
    y, expected = act(x), formula(x, act.alpha, t, layout.channel_dim)
    assert_near(y, expected, 1e-13)
    assert y.stride() == torch.empty_like(x).stride()
    actual = torch.autograd.grad(y, (x, act.alpha), grad)
    wanted = torch.autograd.grad(expected, (x, act.alpha), grad)
    for a, e in zip(actual, wanted, strict=True):
        assert_near(a, e, 1e-12)


@pytest.mark.parametrize('t', [0.5, 0.9, 1.0])
def test_gradcheck(t):
    act = make_pdelu(3, t=t)

    def function(x, alpha):
        return functional_call(act, {'alpha': alpha}, (x,))

    inputs = (3 * random_tensor((2, 3, 6)), act.alpha.detach())
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('t', [0.0, 0.5, 0.9, 1.0, 1.5])
def test_far_below(t, dtype):
    """At the end of the bracket and beyond: -alpha, with finite gradients."""
    act = PDELU(num_groups=1, t=t, alpha=0.7)
    end = -1 / (1 - t) if t < 1 else -1e4
    x = torch.tensor([end, 1.5 * end, 1e3 * end, -math.inf], dtype=torch.float64).to(dtype)
    x.requires_grad_()
    y = act(x)
    assert_near(y, torch.full_like(y, -0.7), 1e-2 if t > 1 else 4e-3)
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert act.alpha.grad.isfinite().all()


def test_accurate_near_zero():
    """No cancellation in exp_t(x) - 1: the relative error is float32's."""
    x = -torch.logspace(-30, -1, 100)
    y = PDELU(num_groups=1)(x)
    exact = torch.expm1(torch.log1p(0.1 * x.double()) / 0.1)
    assert ((y - exact) / exact).abs().max() < 5e-7


def test_limit_is_elu():
    x = random_tensor((50,))
    assert_near(PDELU(num_groups=1, t=1.0).double()(x), F.elu(x), 1e-15)
    assert_near(PDELU(num_groups=1, t=1 - 1e-6).double()(x), F.elu(x), 1e-5)


def test_defaults():
    """t = 0.9 as in the paper, alpha = 1 as in its code; per channel."""
    act = PDELU(5)
    assert (act.t, act.alpha.shape) == (0.9, (5,))
    x = torch.full((1, 5), -1.0)
    assert_near(act(x), torch.full((1, 5), 0.9**10 - 1), 1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [False, True])
def test_half_precision(dtype, module):
    """Computed in float32: the result is off by its own rounding alone."""
    act = make_pdelu().to(dtype if module else torch.float32)
    x = (2 * random_tensor((2, 4, 25, 5))).to(dtype)
    y = act(x)
    assert y.dtype == dtype
    expected = formula(x.double(), act.alpha.double(), 0.9, 1)
    assert ((y - expected).abs() <= 0.501 * torch.finfo(dtype).eps * expected.abs() + 1e-7).all()


def test_nan_and_infinity():
    act = PDELU(4)
    x = random_tensor((2, 4), torch.float32)
    x[1, 2] = math.nan
    assert torch.equal(act(x).isnan(), x.isnan())
    x = torch.full((1, 4), math.inf, requires_grad=True)
    y = act(x)
    assert y.isposinf().all()
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(1, 4))


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(t=-0.1), 't must be a finite number >= 0'),
        (dict(t=math.nan), 't must be'),
        (dict(t='0.9'), 't must be'),
        (dict(alpha=math.inf), 'alpha must be a finite number, got'),
        (dict(alpha=None), 'alpha must be'),
        (dict(num_groups=0), 'num_groups must be a positive integer or None'),
        (dict(num_channels=0), 'num_channels'),
    ],
)
def test_arguments_are_checked(arguments, named):
    with pytest.raises(ValueError, match=f'PDELU: {named}'):
        PDELU(**arguments)


def test_inputs_are_checked():
    with pytest.raises(ValueError, match='PDELU has 4 channels at dimension 1'):
        PDELU(4)(torch.zeros(2, 8))
    with pytest.raises(RuntimeError, match=r'PDELU.*num_channels'):
        PDELU()(torch.zeros(2, 8))
