# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Sections 3.2 to 3.4 of the AReLU paper, and piecewise-linear tables by hand."""

import math

import pytest
import torch

from mmact import ops
from mmact.ops import reference

from .utils import DTYPES, assert_near, random_tensor, with_gradients


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize('residual', [True, False])
def test_the_equations(residual, device):
    """Values and gradients as sections 3.3 and 3.4 print them, C(alpha) where they print alpha."""
    alpha, beta = numbers(0.3), numbers(-0.5)
    s = 1 / (1 + math.exp(0.5))
    x, grad = numbers(-2, -0.5, 0, 0.25, 4), numbers(1, 2, 3, 4, 5)
    above = residual + s
    x, alpha, beta, grad = (t.to(device) for t in (x, alpha, beta, grad))
    y, gx, g_alpha, g_beta = with_gradients(
        lambda x, a, b: ops.arelu(x, a, b, residual), x, (alpha, beta), grad
    )
    x, grad = x.cpu(), grad.cpu()
    assert_near(y, numbers(-0.6, -0.15, 0, 0.25 * above, 4 * above), 1e-16)
    assert_near(gx, grad * numbers(0.3, 0.3, above, above, above), 1e-15)
    assert_near(g_alpha, numbers(-2 * 1 - 0.5 * 2), 1e-15)
    assert_near(g_beta, numbers(s * (1 - s) * (0.25 * 4 + 4 * 5)), 1e-15)


@pytest.mark.parametrize(
    ('alpha', 'acts'), [(0.005, 0.01), (-3.0, 0.01), (0.995, 0.99), (7.0, 0.99)]
)
def test_the_clamp_acts_and_passes_no_gradient(alpha, acts, device):
    x = numbers(-2, 3).to(device)
    for function in (ops.arelu, reference.arelu):
        y, gx, g_alpha, g_beta = with_gradients(
            function, x, (numbers(alpha).to(device), numbers(0).to(device)), torch.ones_like(x)
        )
        assert_near(y, numbers(-2 * acts, 4.5), 1e-16)
        assert_near(gx, numbers(acts, 1.5), 1e-16)
        assert g_alpha.item() == 0
        assert g_beta.item() == pytest.approx(0.75)


def test_elsa_clamps_and_squashes():
    """A public implementation of ELSA used the raw alpha and beta: -0.9 and 3.0 for these."""
    y = ops.arelu(numbers(-1, 1), numbers(0.9), numbers(2.0), residual=False)
    assert_near(y, numbers(-0.9, 1 / (1 + math.exp(-2))), 1e-16)


def test_arelu_wants_one_number_each():
    with pytest.raises(ValueError, match=r'alpha must be one number, got shape \(2,\)'):
        ops.arelu(numbers(1), numbers(0.1, 0.2), numbers(0))


# Piecewise-linear tables --------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_a_table_worked_out_by_hand(dtype, device):
    """Breakpoints -1 and 2 belong to the segment on their right; so does a jump there."""

    def given(*values):
        return numbers(*values).to(device, dtype)

    def run(*table):
        return with_gradients(
            lambda x, s, o: ops.piecewise_linear(x, table[0], s, o),
            given(-4, -1, 0, 2, 3),
            table[1:],
            given(1, 2, 3, 4, 5),
        )

    def same(actual, *expected):
        return torch.equal(actual.flatten(), given(*expected))

    y, gx, g_slopes, g_offsets = run(
        given(-1, 2)[None], given(1, 0, -2)[None], given(3, 5, 10)[None]
    )
    assert same(y, -1, 5, 5, 6, 4)
    assert same(gx, 1, 0, 0, -8, -10)
    assert same(g_slopes, -4, -2, 4 * 2 + 5 * 3)
    assert same(g_offsets, 1, 2 + 3, 4 + 5)
    # One breakpoint alone has kernels of its own.
    y, gx, g_slopes, g_offsets = run(given(2)[None], given(1, -2)[None], given(3, 10)[None])
    assert same(y, -1, 2, 3, 6, 4)
    assert same(gx, 1, 2, 3, -8, -10)
    assert same(g_slopes, -4 - 2, 4 * 2 + 5 * 3)
    assert same(g_offsets, 1 + 2 + 3, 4 + 5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_a_continuous_function_reach_its_breakpoints(dtype):
    """A hinge a max(0, x - b): the offset -a b carries the gradient of b."""
    x = random_tensor((2, 3, 40), dtype)
    a = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    b = torch.tensor([-0.5, 0.0, 0.75], requires_grad=True)
    slopes = torch.stack([torch.zeros(3), a], 1)
    offsets = torch.stack([torch.zeros(3), -a * b], 1)
    y = ops.piecewise_linear(x, b.detach()[:, None], slopes, offsets)
    expected = a[:, None] * (x.float() - b[:, None]).relu()
    assert_near(y, expected, 1e-6 if dtype == torch.float32 else 4e-3)
    for mine, other in zip(
        torch.autograd.grad(y.float().sum(), (a, b)),
        torch.autograd.grad(expected.sum(), (a, b)),
        strict=True,
    ):
        assert_near(mine, other, 1e-6)


def test_huge_and_infinite_inputs():
    table = [numbers(0)[None], numbers(0.5, 2)[None], numbers(1, -1)[None]]
    x = numbers(-math.inf, -1e300, 1e300, math.inf)
    assert_near(ops.piecewise_linear(x, *table)[1:3], numbers(-5e299, 2e300), 1e-15)
    assert ops.piecewise_linear(x, *table).tolist()[::3] == [-math.inf, math.inf]


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(breakpoints=torch.zeros(3)), r'breakpoints must have shape \(G, S\)'),
        (dict(breakpoints=torch.zeros(1, 0)), 'with S >= 1'),
        (dict(slopes=torch.zeros(1, 2)), r'slopes must have shape \(1, 3\)'),
        (dict(offsets=torch.zeros(2, 3)), r'offsets must have shape \(1, 3\)'),
    ],
)
def test_errors_name_the_argument(change, words):
    given = dict(breakpoints=torch.zeros(1, 2), slopes=torch.zeros(1, 3), offsets=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=words):
        ops.piecewise_linear(torch.zeros(4), **{**given, **change})


def test_channels_that_groups_cannot_share():
    table = torch.zeros(4, 1), torch.zeros(4, 2), torch.zeros(4, 2)
    with pytest.raises(ValueError, match='x has 6 channels .* which 4 sets'):
        ops.piecewise_linear(torch.zeros(2, 6), *table)
    with pytest.raises(ValueError, match='channel_dim=3 is not a dimension'):
        ops.piecewise_linear(torch.zeros(2, 6), *table, channel_dim=3)
    for wrong in ((torch.zeros(2, 6), *table, 1), (torch.zeros(2, 8), *table, 5)):
        with pytest.raises(RuntimeError):
            torch.ops.mmact.piecewise_linear(*wrong)
