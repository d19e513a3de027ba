# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Eq. 1 to 4 and Table 1 of the PWLU paper by independent routes.

The kernel and the reference were written from the same page, so neither is enough as the other's
only witness: here are numbers worked out by hand, a scalar version of the paper's lines in plain
Python, autograd through the reference, and finite differences.
"""

import math

import pytest
import torch

from mmact import ops
from mmact.ops import reference

from .utils import (
    LAYOUTS,
    PWLU_PARAMETERS,
    assert_near,
    between_breakpoints,
    error,
    make_parameters,
    random_tensor,
    with_gradients,
)


def test_a_function_worked_out_by_hand():
    """N = 2 on [-1, 3], so d = 2, through (-1, 4), (1, 0), (3, 1), with K_L = -2 and K_R = 5."""
    numbers = ([-1.0], [3.0], [-2.0], [5.0], [[4.0, 0.0, 1.0]])
    parameters = [torch.tensor(v, dtype=torch.float64) for v in numbers]
    #                  x     y     dy/dx  dB_L    dB_R   dK_L  dK_R  dY_0   dY_1   dY_2
    rows = torch.tensor(
        [
            [-3.0, 8.0, -2.0, 2.0, 0.0, -2.0, 0.0, 1.0, 0.0, 0.0],
            [-1.0, 4.0, -2.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
            [0.0, 2.0, -2.0, 1.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.0],
            [1.0, 0.0, 0.5, -0.25, -0.25, 0.0, 0.0, 0.0, 1.0, 0.0],
            [2.5, 0.75, 0.5, -0.0625, -0.4375, 0.0, 0.0, 0.0, 0.25, 0.75],
            [3.0, 1.0, 5.0, 0.0, -5.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            [4.0, 6.0, 5.0, 0.0, -5.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    for row in rows:
        x = row[:1]
        for function in (ops.pwlu, reference.pwlu):
            results = with_gradients(function, x, parameters, torch.ones_like(x))
            assert torch.equal(torch.cat([r.view(-1) for r in results]), row[1:]), row
        table = reference.pwlu_bwd(torch.ones_like(x), x, *parameters)
        assert torch.equal(torch.cat([r.view(-1) for r in table]), row[2:]), row
    # All at once, with weights: the sums of the rows.
    weights = torch.arange(1.0, 8.0, dtype=torch.float64)
    results = with_gradients(ops.pwlu, rows[:, 0], parameters, weights)
    assert_near(results[0], rows[:, 1], 0)
    assert_near(results[1], weights * rows[:, 2], 0)
    expected = (weights[:, None] * rows[:, 3:]).sum(0)
    assert_near(torch.cat([r.view(-1) for r in results[2:]]), expected, 1e-15)


def scalar_pwlu(x, left, right, left_slope, right_slope, points):
    """(y, [the entries of Table 1]) of one number; points is a list of N + 1."""
    n = len(points) - 1
    g_points = [0.0] * (n + 1)
    if x < left:
        g_points[0] = 1.0
        y = (x - left) * left_slope + points[0]
        return y, [left_slope, -left_slope, 0.0, x - left, 0.0, *g_points]
    if x >= right:
        g_points[n] = 1.0
        y = (x - right) * right_slope + points[n]
        return y, [right_slope, 0.0, -right_slope, 0.0, x - right, *g_points]
    d = (right - left) / n
    idx = math.floor((x - left) / d)
    edge = left + idx * d
    slope = (points[idx + 1] - points[idx]) / d
    g_points[idx] = (edge + d - x) / d
    g_points[idx + 1] = (x - edge) / d
    g_left, g_right = slope * (x - right) / (right - left), slope * (left - x) / (right - left)
    return (x - edge) * slope + points[idx], [slope, g_left, g_right, 0.0, 0.0, *g_points]


@pytest.mark.parametrize('num_intervals', [1, 2, 5, 16, 31])
def test_four_routes_to_the_same_gradients(num_intervals):
    channels = 3
    parameters = make_parameters(channels, num_intervals)
    x = between_breakpoints((4, channels, 6), parameters, 1)
    grad = random_tensor(x.shape, seed=2)
    y = torch.empty_like(x)
    gx = torch.empty_like(x)
    sums = torch.zeros(channels, 4 + num_intervals + 1, dtype=x.dtype)
    for b in range(4):
        for c in range(channels):
            for i in range(6):
                own = [p[c].tolist() for p in parameters]
                y[b, c, i], row = scalar_pwlu(x[b, c, i].item(), *own)
                row = grad[b, c, i] * torch.tensor(row, dtype=x.dtype)
                gx[b, c, i] = row[0]
                sums[c] += row[1:]
    by_hand = (gx, *sums[:, :4].unbind(1), sums[:, 4:])

    assert_near(reference.pwlu(x, *parameters), y, 1e-13, 'reference')
    assert_near(ops.pwlu(x, *parameters), y, 1e-13, 'kernel')
    routes = {
        'Table 1': reference.pwlu_bwd(grad, x, *parameters),
        'autograd of the reference': with_gradients(reference.pwlu, x, parameters, grad)[1:],
        'kernel': with_gradients(ops.pwlu, x, parameters, grad)[1:],
    }
    for route, gradients in routes.items():
        for name, actual, expected in zip(('x', *PWLU_PARAMETERS), gradients, by_hand, strict=True):
            assert_near(actual, expected, 1e-13, f'{route}: {name}')


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second', 'scalar'])
@pytest.mark.parametrize('num_intervals', [2, 16, 31])
def test_gradcheck_of_the_kernel(num_intervals, layout, inference):
    """Finite differences of the kernel's own values, for x and all parameters."""
    kind = LAYOUTS[layout]
    channels = 1 if kind.channel_dim is None else 3
    dim = kind.channel_dim or 0
    parameters = make_parameters(channels, num_intervals)
    x = kind.place(between_breakpoints(kind.shape(channels), parameters, kind.channel_dim))
    inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
    assert torch.autograd.gradcheck(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=dim, inference=inference),
        inputs,
        eps=1e-6,
        atol=1e-7,
        rtol=1e-7,
        fast_mode=False,
    )


def test_gradcheck_of_the_reference():
    parameters = make_parameters(3, 5)
    x = between_breakpoints((4, 3, 6), parameters, 1)
    inputs = [t.requires_grad_() for t in (x, *parameters)]
    assert torch.autograd.gradcheck(reference.pwlu, inputs, atol=1e-7, rtol=1e-7)


def test_continuous_in_x_and_in_the_bounds():
    """PWLU has no jumps: not at its ends, and not where a moving bound passes an element."""
    parameters = make_parameters(1, 5)
    left, right, *rest = parameters
    ends = left + (right - left) * torch.linspace(0, 1, 6, dtype=torch.float64)
    step = 1e-9
    for delta in (-step, step):
        assert error(ops.pwlu(ends + delta, *parameters), ops.pwlu(ends, *parameters)) < 1e-7
        moved = ops.pwlu(ends, left + delta, right + delta, *rest)
        assert error(moved, ops.pwlu(ends, *parameters)) < 1e-7


def test_gradients_only_of_what_asks_for_them():
    parameters = list(make_parameters(3, 4))
    x = between_breakpoints((2, 3, 5), parameters, 1)
    every = with_gradients(ops.pwlu, x, parameters, torch.ones_like(x))[1:]
    for i in range(6):
        inputs = [x, *parameters]
        inputs[i] = inputs[i].clone().requires_grad_()
        ops.pwlu(*inputs).sum().backward()
        assert_near(inputs[i].grad, every[i], 1e-15, str(i))
        assert all(t.grad is None for j, t in enumerate(inputs) if j != i)
    assert not ops.pwlu(x, *parameters).requires_grad


def test_second_derivatives():
    """Those of the reference: d/dparameters of the derivative."""
    parameters = [p.requires_grad_() for p in make_parameters(3, 4)]
    x = between_breakpoints((2, 3, 5), parameters, 1).requires_grad_()
    found = []
    for function in (ops.pwlu, reference.pwlu):
        (gx,) = torch.autograd.grad(function(x, *parameters).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gx.square().sum(), parameters, allow_unused=True))
    assert found[0][4].abs().sum() > 0
    for actual, expected in zip(*found, strict=True):
        if expected is not None:
            assert_near(actual, expected, 1e-13)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('num_intervals', [1, 16, 31])
def test_inference_form_equals_the_training_form(num_intervals, dtype):
    """Section 4.3: x * S + O. It cancels: its error grows with x * S, as reported for float32."""
    parameters = make_parameters(5, num_intervals, dtype)
    x = between_breakpoints((3, 5, 300), parameters, 1, dtype)
    y = ops.pwlu(x, *parameters)
    z = ops.pwlu(x, *parameters, inference=True)
    # Measured: 2.7e-6 and 8.0e-15.
    assert_near(z, y, {torch.float32: 6e-6, torch.float64: 2e-14}[dtype])
    a = with_gradients(ops.pwlu, x, parameters, torch.ones_like(x))
    b = with_gradients(
        lambda x, *p: ops.pwlu(x, *p, inference=True), x, parameters, torch.ones_like(x)
    )
    assert all(torch.equal(g, h) for g, h in zip(a[1:], b[1:], strict=True))


def saved_by(function):
    """The tensors that autograd keeps for the backward of function()."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        assert function().requires_grad
    return saved


def test_saves_the_input_and_the_parameters_only():
    """No copy of x, no mask, no index: backward costs the memory of nothing but x itself."""
    parameters = [p.requires_grad_() for p in make_parameters(3, 16, torch.float32)]
    for layout in ('nchw', 'channels_last', 'every_second', 'expanded'):
        kind = LAYOUTS[layout]
        x = between_breakpoints(kind.shape(3), parameters, 1, torch.float32)
        x = kind.place(x.detach()).requires_grad_()
        saved = saved_by(lambda x=x: ops.pwlu(x, *parameters))
        assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in (x, *parameters)], layout
        assert saved[0].stride() == x.stride()
