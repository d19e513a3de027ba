# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of scalar activations into PWLUs."""

import copy

import pytest
import torch
from test_ops.utils import assert_near
from torch import nn

from mmact.activations import (
    APL,
    ELSA,
    PAU,
    PDELU,
    PWLU,
    RPAU,
    SLAF,
    AReLU,
    DiTAC,
    DyReLUA,
    DyReLUB,
    DyReLUC,
    FReLU,
    Maxout,
    Mixture,
    SReLU,
    to_pwlu,
)

SCALAR = {
    'APL': lambda: APL(3),
    'AReLU': AReLU,
    'DiTAC': lambda: DiTAC(init='prior'),
    'DiTAC_channel': lambda: DiTAC(3, init='prior', num_groups=None),
    'DiTAC_inf': lambda: DiTAC(version='inf', init='prior'),
    'ELSA': ELSA,
    'Mixture': Mixture,
    'PAU': PAU,
    'PAU_channel': lambda: PAU(3, init='tanh', num_groups=None),
    'PDELU': lambda: PDELU(3),
    'PWLU': lambda: PWLU(3),
    'RPAU': RPAU,
    'SLAF': SLAF,
    'SReLU': lambda: SReLU(3),
    'GELU': nn.GELU,
    'Hardswish': nn.Hardswish,
    'PReLU': lambda: nn.PReLU(3),
    'ReLU': nn.ReLU,
    'RReLU': nn.RReLU,
    'SiLU': nn.SiLU,
    'Tanh': nn.Tanh,
}


def build(name):
    """The activation with parameters of its own in each channel, in evaluation."""
    torch.manual_seed(0)
    act = SCALAR[name]()
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return act.eval()


@pytest.mark.parametrize('name', SCALAR)
def test_error_between_the_bounds_and_slopes_outside(name):
    act = build(name)
    before = copy.deepcopy(act.state_dict())
    layer, error = to_pwlu(act, bounds=(-4, 3))
    assert error <= 1e-3
    exact = copy.deepcopy(act).double()
    # Other points than the conversion's own.
    x = torch.linspace(-4, 3, 30011, dtype=torch.float64).repeat(1, 3, 1)
    with torch.no_grad():
        assert (copy.deepcopy(layer).double()(x) - exact(x)).abs().max() <= 1.05 * error + 1e-12
        assert_near(layer(x.float()), exact(x), error + 1e-5)
    # One unit outside of the bounds the PWLU goes on as steep as the activation is there.
    ends = torch.tensor([-4.00001, 3.00001], dtype=torch.float64).repeat(1, 3, 1).requires_grad_()
    (slopes,) = torch.autograd.grad(exact(ends).sum(), ends)
    far = torch.tensor([-4.0, -5.0, 3.0, 4.0]).repeat(1, 3, 1)
    y = layer(far)
    assert_near(y[..., 0] - y[..., 1], slopes[..., 0], 1e-3)
    assert_near(y[..., 3] - y[..., 2], slopes[..., 1], 1e-3)
    for key, value in act.state_dict().items():
        assert torch.equal(value, before[key])


def test_piecewise_linear_functions_need_few_intervals():
    for act in (nn.ReLU(), nn.LeakyReLU(0.1), AReLU(), PWLU(2)):
        layer, error = to_pwlu(act)
        assert layer.num_intervals == 2
        assert error < 1e-6


def test_number_of_intervals_and_error():
    act = nn.SiLU()
    counts = [to_pwlu(act, max_error=e)[0].num_intervals for e in (1e-1, 1e-2, 1e-3, 1e-4)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    # SiLU bends most at 0, by 1/2: halving an interval divides its error h^2 / 16 by 4.
    wide, narrow = (to_pwlu(act, n, max_error=1)[1] for n in (64, 128))
    assert wide == pytest.approx(0.25**2 / 16, rel=0.05)
    assert wide / narrow == pytest.approx(4, rel=0.05)
    with pytest.raises(ValueError, match=r'num_intervals=8 on \[-8.0, 8.0\] the error of SiLU'):
        to_pwlu(act, 8)


def test_what_comes_back():
    act = DiTAC(3, num_groups=None, channel_dim=-1).double()
    layer, _ = to_pwlu(act.train(), max_error=0.01)
    assert isinstance(layer, PWLU)
    assert (layer.num_channels, layer.num_groups, layer.channel_dim) == (3, None, -1)
    assert (layer.phase, layer.training) == ('learn', True)
    assert layer.rows('points').dtype == torch.float64
    assert not to_pwlu(act.eval(), max_error=0.01)[0].training
    single = to_pwlu(nn.GELU())[0]
    assert single.num_groups == 1
    assert single(torch.randn(2, 5, 4)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    'act',
    [
        FReLU(3),
        Maxout(num_channels=4),
        DyReLUA(8),
        DyReLUB(8),
        DyReLUC(8),
        nn.Softmax(dim=1),
        nn.Softmax(dim=-1),
    ],
    ids=lambda act: type(act).__name__,
)
def test_not_elementwise(act):
    with pytest.raises(ValueError, match=f'to_pwlu: {type(act).__name__} is not elementwise'):
        to_pwlu(act)


def test_what_cannot_be_reached():
    with pytest.raises(ValueError, match='a function that jumps cannot be reached'):
        to_pwlu(DiTAC(version='leaky', domain=(-1, 2)))
    with pytest.raises(RuntimeError, match='PWLU does not know its number of channels'):
        to_pwlu(PWLU())

    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    with pytest.raises(ValueError, match='Logarithm is not'):
        to_pwlu(Logarithm())


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(num_intervals=0), 'num_intervals must be a positive integer or None, got 0'),
        (dict(max_error=0), 'max_error must be a positive number, got 0'),
        (dict(max_error=float('nan')), 'max_error must be'),
        (dict(bounds=(3, -3)), 'bounds must be two finite numbers'),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        to_pwlu(nn.SiLU(), **arguments)
