# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Properties of every CPAB transformation, over velocities, domains, numbers of cells and x."""

import pytest
import torch

from mmact import ops

from .ode import Field

hypothesis = pytest.importorskip('hypothesis')
st = hypothesis.strategies
few = hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)


@st.composite
def transformations(draw, speed=2.0):
    """(theta (1, N - 1), domain, x), with velocities of up to so many cells per unit of time."""
    cells = draw(st.integers(2, 24))
    a = draw(st.floats(-20, 20))
    width = draw(st.floats(0.01, 20))
    share = st.one_of(st.floats(-1, 1), st.sampled_from([0.0, 0.5, 0.5, -0.5, 1e-9, -1e-12]))
    theta = draw(st.lists(share, min_size=cells - 1, max_size=cells - 1))
    theta = torch.tensor([theta], dtype=torch.float64) * speed * width / cells
    place = draw(st.lists(st.floats(0, 1), min_size=9, max_size=9))
    x = a + width * torch.tensor([*place, 0, 1], dtype=torch.float64).sort().values
    return theta, (a, a + width), x.clamp(a, a + width)


@hypothesis.given(transformations())
@few
def test_increasing_onto_the_domain_and_invertible(case):
    theta, domain, x = case
    scale = 1 + max(map(abs, domain))
    y = ops.cpab(x, theta, domain)
    assert (y.diff() >= -1e-14 * scale).all()
    assert (y - y.clamp(*domain)).abs().max() <= 1e-14 * scale
    assert y[0] == x[0] or x[0] > domain[0]
    # Slopes up to 4: T' is e^-4 and more, so rounding T(x) by one place moves x by up to 55.
    for extend in ('identity', 'affine'):
        back = ops.cpab(ops.cpab(x, theta, domain, extend=extend), -theta, domain, extend=extend)
        assert (back - x).abs().max() <= 1e-12 * scale


@hypothesis.given(transformations())
@hypothesis.settings(few, max_examples=10)
def test_is_the_flow_of_the_field(case):
    theta, domain, x = case
    expected = Field(theta[0], domain).flow(x)
    assert (ops.cpab(x, theta, domain) - expected).abs().max() <= 1e-8 * (domain[1] - domain[0])


@hypothesis.given(transformations(speed=20.0), st.sampled_from(['identity', 'affine']))
@few
def test_finite_whatever_the_velocities(case, extend):
    theta, domain, x = case
    theta.requires_grad_()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        xd = torch.cat([x - 1, x, x + 1]).to(dtype).requires_grad_()
        y = ops.cpab(xd, theta, domain, extend=extend)
        gx, g_theta = torch.autograd.grad(y.sum(), (xd, theta))
        for value in (y, gx, g_theta):
            assert value.isfinite().all()


@hypothesis.given(transformations())
@few
def test_two_halves_make_a_whole(case):
    """The flow for time 1 is twice that for time 1/2, which has half the velocities."""
    theta, domain, x = case
    half = ops.cpab(ops.cpab(x, theta / 2, domain), theta / 2, domain)
    scale = 1 + max(map(abs, domain))
    assert (half - ops.cpab(x, theta, domain)).abs().max() <= 1e-12 * scale
