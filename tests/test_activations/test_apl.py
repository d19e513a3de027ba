# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""APL against Eq. 1 as it is printed: max(0, x) + sum of a_s max(0, -x + b_s)."""

import math

import pytest
import torch
from test_ops.utils import LAYOUTS, assert_near, generator, per_channel, random_tensor
from torch.func import functional_call

from mmact.activations import APL


def make_apl(channels=4, hinges=3, seed=0, **kwargs):
    """With hinges far apart, in another order in each channel, some on each other and on 0."""
    act = APL(channels, S=hinges, **kwargs).double()
    with torch.no_grad():
        act.rows('slopes').copy_(random_tensor(act.rows('slopes').shape, seed=seed))
        act.rows('hinges').copy_(2 * random_tensor(act.rows('hinges').shape, seed=seed + 1))
        act.rows('hinges')[0, 0] = 0.0
        act.rows('hinges')[-1, -1] = act.rows('hinges')[-1, 0]
    return act


def formula(x, slopes, hinges, dim):
    y = x.clamp(min=0)
    for a, b in zip(slopes.unbind(1), hinges.unbind(1), strict=True):
        y = y + per_channel(a, x, dim) * (per_channel(b, x, dim) - x).clamp(min=0)
    return y


@pytest.mark.parametrize('hinges', [1, 3, 8])
@pytest.mark.parametrize('name', LAYOUTS)
def test_values_and_gradients(name, hinges):
    layout = LAYOUTS[name]
    num_groups = 1 if layout.channel_dim is None else None
    act = make_apl(4, hinges, num_groups=num_groups, channel_dim=layout.channel_dim)
    x = layout.place(3 * random_tensor(layout.shape(4), seed=2)).requires_grad_()
    grad = random_tensor(x.shape, seed=3)
    tensors = (x, act.slopes, act.hinges)
    y = act(x)
    expected = formula(x, act.rows('slopes'), act.rows('hinges'), layout.channel_dim)
    assert_near(y, expected, 1e-13)
    assert y.stride() == torch.empty_like(x).stride()
    actual = torch.autograd.grad(y, tensors, grad)
    for a, e in zip(actual, torch.autograd.grad(expected, tensors, grad), strict=True):
        assert_near(a, e, 1e-13)


def test_gradcheck():
    act = make_apl(3)
    x = 3 * random_tensor((2, 3, 5), seed=5)
    corners = torch.cat([torch.zeros(3, 1), act.rows('hinges').detach()], 1)[None, :, None]
    assert (x[..., None] - corners).abs().min() > 1e-4, 'x must stand between the corners'

    def function(x, slopes, hinges):
        return functional_call(act, {'slopes': slopes, 'hinges': hinges}, (x,))

    # The hinges that stand on 0 and on each other may move: Eq. 1 has no corner there in b.
    inputs = [t.detach().requires_grad_() for t in (x, act.rows('slopes'), act.rows('hinges'))]
    assert torch.autograd.gradcheck(function, inputs)


def test_on_the_corners():
    act = make_apl(3)
    x = torch.cat([torch.zeros(3, 1), act.rows('hinges').detach()], 1).unsqueeze(0)
    assert_near(act(x), formula(x, act.rows('slopes'), act.rows('hinges'), 1), 1e-13)


def test_beyond_all_corners_it_is_the_identity_to_the_bit():
    act = APL(5, S=7)
    x = 10 + random_tensor((3, 5, 9), torch.float32).abs()
    assert torch.equal(act(x), x)


def test_initial_values():
    """As in the authors' code: a from U(-0.2, 0.2), b from N(0, 0.5^2)."""
    torch.manual_seed(0)
    act = APL(4000)
    assert act.rows('slopes').shape == act.rows('hinges').shape == (4000, 3)
    assert act.rows('slopes').abs().max() <= 0.2
    assert abs(act.rows('slopes').std() - 0.4 / math.sqrt(12)) < 5e-3
    assert abs(act.rows('hinges').std() - 0.5) < 2e-2
    assert abs(act.rows('hinges').mean()) < 2e-2
    assert len(act.rows('hinges').unique()) > 11900, 'equal hinges would stay equal'


def test_the_arelu_papers_apl_has_two_parameters():
    act = APL(S=1, num_groups=1)
    assert sum(p.numel() for p in act.parameters()) == 2
    assert act(torch.zeros(2, 7, 3)).shape == (2, 7, 3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [False, True])
def test_half_precision(dtype, module):
    """The arithmetic is in float32, whether or not the parameters are."""
    act = make_apl().to(dtype if module else torch.float32)
    x = (3 * random_tensor((2, 4, 5, 5))).to(dtype)
    y = act(x)
    assert y.dtype == dtype
    expected = formula(x.double(), act.rows('slopes').double(), act.rows('hinges').double(), 1)
    assert_near(y, expected, 2 * torch.finfo(dtype).eps)


def test_nan_and_infinity():
    act = make_apl()
    x = random_tensor((2, 4, 5))
    x[0, 1, 2] = math.nan
    assert torch.equal(act(x).isnan(), x.isnan())
    assert act(torch.full((1, 4, 1), math.inf)).isposinf().all()


def test_learns_a_function():
    """A leaky ReLU with its corner at -1, which two of its hinges can be."""
    torch.manual_seed(0)
    act = APL(num_groups=1)
    x = 3 * torch.randn(128, generator=generator(0))
    target = torch.where(x > -1, x, 0.3 * (x + 1) - 1)
    optimizer = torch.optim.Adam(act.parameters(), lr=0.1)
    losses = []
    for _ in range(80):
        loss = (act(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize('S', [0, -1, 2.0, '3', None, True])
def test_s_is_checked(S):
    with pytest.raises(ValueError, match='APL: S must be a positive integer'):
        APL(4, S=S)


def test_groups_are_checked():
    with pytest.raises(ValueError, match="APL: num_groups must be a positive .* got 'both'"):
        APL(4, num_groups='both')


@pytest.mark.parametrize('shape', [(2, 8, 3), (2, 3), (4,), ()])
def test_inputs_are_checked(shape):
    """Also a multiple of the channels, which the op could share out in groups."""
    with pytest.raises(ValueError, match=r'APL has 4 channels at dimension 1.*channel_dim'):
        APL(4)(torch.zeros(shape))


def test_unknown_channels():
    with pytest.raises(RuntimeError, match=r'APL.*num_channels'):
        APL()(torch.zeros(2, 3))
