# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""SReLU against the definition of its paper, and where its thresholds meet or cross."""

import math

import pytest
import torch
from test_ops.utils import LAYOUTS, assert_near, per_channel, random_tensor
from torch.func import functional_call

from mmact.activations import SReLU

NAMES = ('left_threshold', 'left_slope', 'right_threshold', 'right_slope')


def make_srelu(channels=4, **kwargs):
    act = SReLU(channels, **kwargs).double()
    with torch.no_grad():
        for seed, name in enumerate(NAMES):
            value = random_tensor(getattr(act, name).shape, seed=seed)
            sign = {'left_threshold': -1, 'right_threshold': 1}.get(name)
            getattr(act, name).copy_(sign * (value.abs() + 0.2) if sign else value)
    return act


def parameters(act):
    return [getattr(act, name) for name in NAMES]


def formula(x, t_l, a_l, t_r, a_r, dim):
    t_l, a_l, t_r, a_r = (per_channel(p, x, dim) for p in (t_l, a_l, t_r, a_r))
    left, right = t_l + a_l * (x - t_l), t_r + a_r * (x - t_r)
    return torch.where(x >= t_r, right, torch.where(x > t_l, x, left))


@pytest.mark.parametrize('name', LAYOUTS)
def test_values_and_gradients(name):
    layout = LAYOUTS[name]
    num_groups = 1 if layout.channel_dim is None else None
    act = make_srelu(4, num_groups=num_groups, channel_dim=layout.channel_dim)
    x = layout.place(2 * random_tensor(layout.shape(4), seed=12)).requires_grad_()
    grad = random_tensor(x.shape, seed=13)
    tensors = (x, *parameters(act))
    y = act(x)
    expected = formula(*tensors, layout.channel_dim)
    assert_near(y, expected, 1e-13)
    assert y.stride() == torch.empty_like(x).stride()
    actual = torch.autograd.grad(y, tensors, grad)
    for a, e in zip(actual, torch.autograd.grad(expected, tensors, grad), strict=True):
        assert_near(a, e, 1e-12)


def test_gradcheck():
    act = make_srelu(3)
    x = 2 * random_tensor((2, 3, 6), seed=4)
    thresholds = torch.stack([act.left_threshold, act.right_threshold]).view(2, 1, 3, 1)
    assert (x - thresholds).abs().min() > 1e-4, 'x must stand between the thresholds'

    def function(x, *values):
        return functional_call(act, dict(zip(NAMES, values, strict=True)), (x,))

    inputs = [t.detach().requires_grad_() for t in (x, *parameters(act))]
    assert torch.autograd.gradcheck(function, inputs)


def test_on_the_thresholds():
    act = make_srelu(5)
    x = torch.stack([act.left_threshold, act.right_threshold]).detach()
    assert_near(act(x), x, 1e-14)


def test_defaults():
    act = SReLU(3)
    x = torch.tensor([-2.0, 0.5, 3.0]).repeat(3, 1).T
    assert_near(act(x), torch.tensor([-0.4, 0.5, 1 + 0.9 * 2]).repeat(3, 1).T, 1e-6)
    assert {n: tuple(p.shape) for n, p in act.named_parameters()} == dict.fromkeys(NAMES, (3,))
    leaky = SReLU(num_groups=1, init=(0, 0.2, 1, 1))
    assert_near(leaky(x), torch.nn.functional.leaky_relu(x, 0.2), 1e-6)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize('gap', [0.0, 1e-9, 0.5, 100.0])
def test_crossed_thresholds(dtype, gap):
    """t_r at or below t_l acts as if it were t_l: continuous, with gradients for both."""
    module = torch.float32 if dtype == torch.float16 else dtype
    act = SReLU(num_groups=1, init=(1.0, 0.3, 1.0, 0.6)).to(module)
    with torch.no_grad():
        act.right_threshold -= gap
    x = torch.linspace(-3, 5, 801, dtype=torch.float64).to(dtype).requires_grad_()
    y = act(x)
    expected = 1 + (x - 1) * torch.where(x < 1, 0.3, 0.6)
    assert_near(y, expected, {torch.float64: 2e-6, torch.float32: 3e-6}.get(dtype, 1e-3))
    y.sum().backward()
    for tensor in (x, *parameters(act)):
        assert tensor.grad.isfinite().all()
    above = (x >= 1).sum().item()
    assert abs(act.right_threshold.grad.item() - 0.4 * above) < 1e-2 * above


def test_crossed_thresholds_come_back():
    """The gradient of t_r leads to the function that it should be."""
    act = SReLU(num_groups=1, init=(0.0, 0.2, 0.0, 0.1))
    with torch.no_grad():
        act.right_threshold -= 0.5
    x = torch.linspace(-2, 4, 100)
    target = torch.where(x < 0, 0.2 * x, torch.where(x < 2, x, 2 + 0.1 * (x - 2)))
    optimizer = torch.optim.Adam(act.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        loss = (act(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert act.right_threshold > 1.5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [False, True])
def test_half_precision(dtype, module):
    act = make_srelu().to(dtype if module else torch.float32)
    x = (2 * random_tensor((2, 4, 5, 5))).to(dtype)
    y = act(x)
    assert y.dtype == dtype
    expected = formula(x.double(), *(p.double() for p in parameters(act)), 1)
    assert_near(y, expected, 2 * torch.finfo(dtype).eps)


def test_nan_and_infinity():
    act = SReLU(4)
    x = random_tensor((2, 4, 5), torch.float32)
    x[0, 1, 2] = math.nan
    assert torch.equal(act(x).isnan(), x.isnan())
    ends = act(torch.tensor([math.inf, -math.inf]).view(2, 1).expand(2, 4))
    assert torch.equal(ends, torch.tensor([math.inf, -math.inf]).view(2, 1).expand(2, 4))


@pytest.mark.parametrize(
    'init', [(1, 0, 0, 1), (0, 1, 1), (0, 0, 1, math.inf), (0, 0, math.nan, 1), 3.0, 'abcd', None]
)
def test_init_is_checked(init):
    with pytest.raises(ValueError, match=r'SReLU: init must be four finite numbers'):
        SReLU(4, init=init)


def test_arguments_and_inputs_are_checked():
    with pytest.raises(ValueError, match='SReLU: num_groups must be a positive integer'):
        SReLU(4, num_groups='both')
    with pytest.raises(ValueError, match='SReLU has 4 channels at dimension 1'):
        SReLU(4)(torch.zeros(2, 8))
    with pytest.raises(RuntimeError, match=r'SReLU.*num_channels'):
        SReLU()(torch.zeros(2, 8))
