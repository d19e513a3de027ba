# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""DiTAC as a layer: its versions, initial values and regulariser. T is tested in tests/test_ops."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.ode import Field
from test_ops.utils import assert_near
from torch import nn

from mmact.activations import DiTAC

NAN, INF = math.nan, math.inf
VERSIONS = ('gelu', 'ge', 'leaky', 'inf')
X = torch.linspace(-5, 5, 1001, dtype=torch.float64)

every_version = pytest.mark.parametrize('version', VERSIONS)


def phi(x):
    """The standard normal distribution function, from its definition."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def learned(version, **kwargs):
    """A DiTAC of random function."""
    torch.manual_seed(0)
    return DiTAC(version=version, init='prior', variance=0.01, **kwargs).double()


# Section C ----------------------------------------------------------------------------------------


def test_defaults():
    """One function for the layer, nine parameters (Table 8: 202 of DiTAC to 193 of ReLU)."""
    act = DiTAC()
    assert [tuple(p.shape) for p in act.parameters()] == [(9,)]
    assert (act.version, act.domain) == ('gelu', (-0.5, 2.0))
    assert (act.theta == 0).all()


@every_version
def test_zero_velocities(version):
    """GELU in its exact form, and what Eq. 5 to 7 give for the identity in T's place."""
    expected = {
        'gelu': F.gelu(X),
        'ge': torch.where(X < 0, F.gelu(X), X),
        'leaky': F.leaky_relu(X, 0.01),
        'inf': X,
    }[version]
    assert_near(DiTAC(version=version)(X), expected, 1e-15)
    assert_near(DiTAC(version=version)(X.float()), expected, 2e-7)


@every_version
def test_equations_4_to_7(version):
    act = learned(version)
    a, b = act.domain
    t = Field(act.theta.detach(), act.domain).flow(X.clamp(a, b))
    below, above = torch.lt(X, a), torch.gt(X, b)
    inside = ~(below | above)
    if version == 'gelu':
        expected = torch.where(inside, t, X) * phi(X)
    elif version == 'ge':
        expected = torch.where(below, X * phi(X), torch.where(above, X, t))
    elif version == 'leaky':
        expected = torch.where(inside, t, F.leaky_relu(X, 0.01))
    else:
        left, right = act.theta[0] * 10 / (b - a), -act.theta[-1] * 10 / (b - a)
        expected = torch.where(
            below, a + left.exp() * (X - a), torch.where(above, b + right.exp() * (X - b), t)
        )
    assert_near(act(X), expected, 1e-9)
    # Not the same as without T, and not GELU of T.
    assert (act(X) - DiTAC(version=version)(X)).abs().max() > 0.02


@every_version
def test_continuous(version):
    """At the ends of the domain, too; section C asks for it in words for 'ge'."""
    act = learned(version)
    x = torch.linspace(-4, 4, 200001, dtype=torch.float64)
    assert act(x).diff().abs().max() < 10 * (x[1] - x[0])
    ends = torch.tensor([*act.domain, 0.0], dtype=torch.float64)
    assert_near(act(ends + 1e-12), act(ends - 1e-12), 1e-11)


def test_leaky_jumps_where_equation_6_does():
    act = DiTAC(version='leaky', domain=(-1, 2), negative_slope=0.2).double()
    x = torch.tensor([-1 - 1e-9, -1.0, 2.0, 2 + 1e-9], dtype=torch.float64)
    assert_near(act(x), torch.tensor([-0.2, -1, 2, 2], dtype=torch.float64), 1e-8)


@every_version
def test_nan_and_infinity(version):
    x = torch.tensor([NAN, INF, -INF], requires_grad=True)
    y = learned(version).float()(x)
    assert y[0].isnan()
    assert y[1] == INF
    assert y[2] == (0 if version in ('gelu', 'ge') else -INF)


@every_version
def test_gradcheck(version):
    act = learned(version)
    g = torch.Generator().manual_seed(1)
    x = 6 * torch.rand(25, dtype=torch.float64, generator=g) - 3
    assert torch.autograd.gradcheck(lambda x, _: act(x), (x.requires_grad_(), act.theta), eps=1e-7)


def test_learns_another_function():
    torch.manual_seed(0)
    x = torch.linspace(0, 2, 400)
    target = x + 0.15 * (6 * x).sin()
    act = DiTAC(version='ge')
    optimizer = torch.optim.Adam(act.parameters(), lr=0.02)
    first = F.mse_loss(act(x), target).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(act(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 30


# Channels -----------------------------------------------------------------------------------------


def test_per_channel():
    act = learned('gelu', num_channels=3, num_groups=None)
    assert act.rows('theta').shape == (3, 9)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    y = act(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    single = DiTAC().double()
    for c in range(3):
        with torch.no_grad():
            single.theta.copy_(act.rows('theta')[c])
        assert_near(y[:, c], single(x[:, c]), 1e-15)


def test_channel_count_from_the_surroundings():
    image = nn.Sequential(nn.Conv2d(3, 8, 1), DiTAC(num_groups=None, num_cells=5))
    tokens = nn.Sequential(nn.Linear(3, 8), DiTAC(num_groups=None, num_cells=5))
    assert image[1].rows('theta').shape == tokens[1].rows('theta').shape == (8, 4)
    assert image(torch.randn(1, 3, 2, 2)).shape == (1, 8, 2, 2)
    assert tokens(torch.randn(1, 7, 3)).shape == (1, 7, 8)
    with pytest.raises(RuntimeError, match='DiTAC does not know its number of channels'):
        DiTAC(num_groups=None)(torch.randn(1, 8))
    with pytest.raises(RuntimeError, match='DiTAC does not know its number of channels'):
        DiTAC(num_groups=None).smoothness()


# The prior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('length_scale', [0.1, 0.4])
def test_prior(length_scale):
    """The covariance of many draws is the squared exponential, given 0 at both ends."""
    torch.manual_seed(0)
    act = DiTAC(
        version='inf',
        num_cells=4,
        domain=(-2, 6),
        init='prior',
        length_scale=length_scale,
        variance=0.01,
        num_groups=None,
        num_channels=20000,
    )
    place = torch.linspace(0, 1, 5, dtype=torch.float64)
    full = 0.01 * torch.exp(-((place - place[:, None]) ** 2) / (2 * length_scale**2))
    # Given that x_4 is 0, and then x_0: one at a time, another way than the layer's.
    for known in (4, 0):
        full = full - torch.outer(full[:, known], full[known]) / full[known, known]
    expected = 8**2 * full[1:4, 1:4]
    drawn = act.rows('theta').detach().double()
    assert_near(drawn.T @ drawn / 20000 / expected.max(), expected / expected.max(), 0.03)
    # theta^T Sigma^-1 theta is chi-squared with 3 degrees of freedom for each channel.
    assert act.smoothness().item() / 20000 == pytest.approx(3, rel=0.05)


def test_smoothness():
    """Rough fields cost more than smooth ones, and its gradient leads to 0."""
    act = DiTAC(length_scale=0.3).double()
    values = []
    for theta in ([0.1] * 9, [0.1, -0.1] * 4 + [0.1]):
        with torch.no_grad():
            act.theta.copy_(torch.tensor(theta))
        values.append(act.smoothness())
    assert 0 < 10 * values[0] < values[1]
    (g,) = torch.autograd.grad(values[1], act.theta)
    assert_near(g @ act.theta / values[1], torch.tensor(2.0), 1e-9)  # a quadratic form
    assert DiTAC().smoothness().item() == 0


def test_seed_decides_the_draw():
    torch.manual_seed(3)
    first = DiTAC(init='prior').theta
    torch.manual_seed(3)
    assert torch.equal(DiTAC(init='prior').theta, first)
    assert not torch.equal(DiTAC(init='prior').theta, first)


# Arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(version='relu'), "version must be 'gelu', 'ge', 'leaky' or 'inf', got 'relu'"),
        (dict(num_cells=1), 'num_cells must be an integer from 2 on, got 1'),
        (dict(num_cells=2.0), 'got 2.0'),
        (dict(domain=(2, 1)), r'domain must be two finite numbers \(a, b\)'),
        (dict(domain=(0, NAN)), 'two finite numbers'),
        (dict(version='ge', domain=(-1, 2)), "domain of version 'ge' must begin at 0"),
        (dict(negative_slope=INF), 'negative_slope must be a finite number, got inf'),
        (dict(init='random'), "init must be 'zero' or 'prior', got 'random'"),
        (dict(length_scale=0), 'length_scale must be a positive number, got 0'),
        (dict(variance=-1.0), 'variance must be a positive number, got -1.0'),
        (dict(num_groups='both'), 'num_groups must be'),
        (dict(num_channels=0, num_groups=None), 'num_channels must be a positive integer'),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        DiTAC(**arguments)


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match='DiTAC has 4 channels at dimension 1, got an input'):
        DiTAC(4, num_groups=None)(torch.zeros(2, 3))
