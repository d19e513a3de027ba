# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Eq. 1 to 4 and Table 1 of the PWLU paper by independent routes, and where they are delicate.

The kernel and the reference were written from the same page, so neither is enough as the other's
only witness: here are numbers worked out by hand, a scalar version of the paper's lines in plain
Python, autograd through the reference, and finite differences; then exact ends of segments, huge
numbers, and bounds that meet or cross. Every dtype, layout and size is in test_elementwise.py.
"""

import math

import pytest
import torch

from mmact import ops
from mmact.ops import reference

from .cases import tolerance
from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_PARAMETERS,
    assert_near,
    between_breakpoints,
    error,
    generator,
    make_parameters,
    random_tensor,
    with_gradients,
)

INF = math.inf


def compare_pwlu(x, parameters, grad, channel_dim, what=''):
    """Fails unless ops.pwlu, both forms, and its gradients are those of the reference."""
    exact = [t.detach().cpu().double() for t in (grad, x, *parameters)]
    expected = reference.pwlu(*exact[1:], channel_dim=channel_dim)
    gradients = reference.pwlu_bwd(*exact, channel_dim=channel_dim)
    limit = tolerance('pwlu_64', x.dtype)
    y, gx, *rest = with_gradients(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=channel_dim), x, parameters, grad
    )
    inference = ops.pwlu(x, *parameters, channel_dim=channel_dim, inference=True)
    for form in (y, inference):
        assert_near(form, expected, limit.elements, f'{what}: y')
    assert_near(gx, gradients[0], limit.elements, f'{what}: x')
    for name, a, b in zip(PWLU_PARAMETERS, rest, gradients[1:], strict=True):
        assert_near(a, b, limit.sums, f'{what}: {name}')


# The equations ------------------------------------------------------------------------------------


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


# On the ends of segments --------------------------------------------------------------------------

# (B_L, d, N) with d of few bits, so that every end B_L + k * d is exact in all dtypes. For the last
# two 1 / d is not: multiplied with it in float32, ends 1, 2, 4 and 7 fall into the segment before.
EXACT = [
    (-2.0, 0.5, 8),
    (-3.0, 0.375, 16),
    (-6.0, 3.0, 5),
    (1.0, 1.25, 7),
    (-3 * 41 / 64, 41 / 64, 7),
    (-4 * 61 / 32, 61 / 32, 7),
]


def exact_case(left, length, n, dtype, device, channels=1):
    """Parameters with exact ends, distinct slopes, and x on every end in every lane of a vector."""
    ends = left + length * torch.arange(n + 1, dtype=torch.float64)
    slopes = torch.arange(n + 2, dtype=torch.float64).flip(0) / 4 - 1  # of segments -1 to N
    points = torch.cat([torch.zeros(1).double(), (slopes[1:-1] * length).cumsum(0)])
    numbers = (ends[:1], ends[-1:], slopes[:1], slopes[-1:], points[None])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [p.repeat(channels, *[1] * (p.dim() - 1)).to(device, wide) for p in numbers]
    # Often enough that each end comes to lie in several lanes of a vector.
    x = ends.repeat(17).to(dtype)
    assert torch.equal(x[: n + 1].double(), ends), 'not exact in this dtype'
    return parameters, x.to(device), slopes


def check_exact_edges(device='cpu'):
    """On the left end of segment k derivative and sums are those of segment k.

    Eq. 1 closes every segment on the left; the right bound belongs to the region beyond it.
    """
    for dtype in DTYPES:
        for left, length, n in EXACT:
            parameters, x, slopes = exact_case(left, length, n, dtype, device)
            y, gx, *gradients = with_gradients(ops.pwlu, x, parameters, torch.ones_like(x))
            what = f'{dtype} {left} {length} {n}'
            # segment 0 begins at B_L, segment N at B_R
            expected = slopes[1:].repeat(17)
            assert torch.equal(gx.cpu().double(), expected), what
            values = parameters[4][0].double().repeat(17)
            assert torch.equal(y.double(), values.to(dtype).double()), what
            # x is each segment's left end: the whole gradient goes to its own point.
            points = dict(zip(PWLU_PARAMETERS, gradients, strict=True))['points']
            assert torch.equal(points, torch.full_like(points, 17)), what
            for channels, shape, dim in ((3, (2, 3, -1), 1), (5, (3, -1, 5), 2)):
                wide, x, _ = exact_case(left, length, n, dtype, device, channels)
                # The same ends in every channel, as planes and as tokens.
                x = x.reshape(1, 1, -1) if dim == 1 else x.reshape(1, -1, 1)
                x = x.expand([s if s > 0 else max(x.shape) for s in shape])
                compare_pwlu(x, wide, torch.ones_like(x), dim, what=f'{what} {shape}')


def test_exact_edges(device):
    check_exact_edges(device)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second'])
@pytest.mark.parametrize('num_intervals', [62, 120, 200, 3000])
def test_many_segments(num_intervals, layout, dtype, device):
    """More than shared memory holds: sums are taken in passes, tables read from global memory.

    Intervals of length 1 around 0, and x in their middle: exact in all dtypes as far as x goes.
    """
    kind, channels, n = LAYOUTS[layout], 3, num_intervals
    left = torch.tensor([-n // 2, 0, -n], dtype=torch.float64)
    slopes = torch.tensor([0.5, -0.25, 1], dtype=torch.float64)
    points = random_tensor((channels, n + 1))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [p.to(device, wide) for p in (left, left + n, slopes, -slopes, points)]
    shape = (2, channels, 23, 29) if layout != 'tokens' else (5, 219, channels)
    reach = min(n + 2, 120)  # bfloat16 has halves up to 128
    x = torch.arange(math.prod(shape)) % (2 * reach) - reach + 0.5
    x = kind.place(x.reshape(shape).to(device, dtype))
    grad = random_tensor(shape, dtype, device, 2)
    compare_pwlu(x, parameters, grad, kind.channel_dim, what=f'N={n}')


@pytest.mark.parametrize('form', ['kernel', 'reference'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_bounds_are_exact_whatever_the_rounding(dtype, form, device):
    """The numbers next to a bound fall on the right side of it, for bounds that are not round.

    x < B_L goes on with K_L, x = B_L does not; x = B_R goes on with K_R, x < B_R does not.
    """
    function = ops.pwlu if form == 'kernel' else reference.pwlu
    channels, n = 500, 3
    left, right, *rest = make_parameters(channels, n, dtype, device, seed=3)
    infinity = torch.tensor(INF, dtype=dtype, device=device)
    x = torch.stack(
        [
            left.nextafter(-infinity),
            left,
            left.nextafter(infinity),
            right.nextafter(-infinity),
            right,
            right.nextafter(infinity),
        ]
    )
    grads = with_gradients(function, x, (left, right, *rest), torch.ones_like(x))
    left_slope, right_slope, points = rest
    length = (right.double() - left.double()) / n
    first = ((points[:, 1].double() - points[:, 0].double()) / length).to(dtype)
    last = ((points[:, n].double() - points[:, n - 1].double()) / length).to(dtype)
    expected = torch.stack([left_slope, first, first, last, right_slope, right_slope])
    assert_near(grads[1], expected, 1e-6 if dtype == torch.float32 else 1e-15)


def test_one_interval_of_any_width():
    """N = 1: a straight line between the bounds, tiny or huge."""
    for width in (1e-3, 1.0, 1e6, 1e30):
        left = torch.tensor([-width / 4], dtype=torch.float64)
        points = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
        share = torch.tensor([0, 0.1, 0.5, 0.999], dtype=torch.float64)
        y = ops.pwlu(left + width * share, left, left + width, left, left, points)
        assert_near(y, 1 + 2 * share, 1e-12, f'{width}')


# Huge numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize('magnitude', [1e4, 1e12, 1e30, 3e38])
def test_huge_x(magnitude, device):
    """Beyond the range of integers the segments are still the outer ones."""
    parameters = make_parameters(2, 16, torch.float32, device)
    x = torch.tensor([[-magnitude, magnitude]] * 9).T.contiguous().repeat(2, 1).view(2, 2, 9)
    x = x.to(device)
    grad = torch.ones_like(x)
    _, gx, *gradients = with_gradients(ops.pwlu, x, parameters, grad)
    expected = torch.where(x < 0, parameters[2].view(1, 2, 1), parameters[3].view(1, 2, 1))
    assert torch.equal(gx, expected)
    points = gradients[4]
    assert torch.equal(points[:, 1:-1], torch.zeros_like(points[:, 1:-1]))
    assert (points[:, 0] + points[:, -1]).tolist() == [18, 18]
    if magnitude < 1e38:  # above, the value itself overflows
        exact = reference.pwlu(x.double(), *(p.double() for p in parameters))
        assert torch.allclose(ops.pwlu(x, *parameters).double(), exact, rtol=1e-6)


def test_half_results_overflow_to_infinity():
    parameters = [p.clone() for p in make_parameters(1, 4, torch.float32)]
    parameters[3].fill_(100)
    x = torch.tensor([60000.0] * 20, dtype=torch.float16)
    assert torch.equal(ops.pwlu(x, *parameters), torch.full_like(x, INF))
    smallest = 2.0**-24  # a subnormal float16 must neither be flushed nor mistaken
    parameters = [torch.tensor(v) for v in ([-1.0], [1.0], [0.0], [1.0], [[-1.0, 1.0]])]
    x = torch.tensor([smallest, 3 * smallest, -smallest, 0.0] * 5, dtype=torch.float16)
    assert_near(ops.pwlu(x, *parameters) / smallest, x / smallest, 2.0)
    gx = with_gradients(ops.pwlu, torch.zeros_like(x), parameters, x)[1]
    assert torch.equal(gx, x)


# Storage types ------------------------------------------------------------------------------------


def every_number(dtype):
    """Returns all 65536 numbers of a half precision."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def numbers_to_round():
    """Returns floats, among them the ties of float16 and bfloat16."""
    bits = torch.randint(-(2**31), 2**31, (60000,), generator=generator(0)).to(torch.int32)
    halfway = torch.arange(-(2**15), 2**15) * 2**16
    for offset in (-1, 0, 1):  # ties of bfloat16, and their neighbours
        bits = torch.cat([bits, (halfway + 2**15 + offset).to(torch.int32)])
    ties = (torch.arange(2**14, dtype=torch.int32) * 2 + 1).to(torch.float32) * 2.0**-25
    return torch.cat([bits.view(torch.float32), ties, -ties, ties * 2**12, 65504 + ties * 2**12])


def check_storage_conversions(device='cpu'):
    """float16 and bfloat16 are read and rounded as PyTorch does it, every bit of it.

    Reading: all 65536 of them, through the identity. Rounding: a wide value stands in Y_N, and x on
    B_R, so that the value itself is the result.
    """
    values = numbers_to_round().to(device)
    identity = [torch.tensor(v).to(device) for v in ([0.0], [1.0], [1.0], [1.0], [[0.0, 1.0]])]
    for dtype in (torch.float16, torch.bfloat16):
        x = every_number(dtype).to(device)
        y = ops.pwlu(x, *identity)
        nan = x.isnan()
        assert torch.equal(y[~nan], x[~nan]), f'{dtype} is not read right'
        assert y[nan].isnan().all()
        assert not y[~nan].isnan().any()

        zeros = torch.zeros_like(values)
        parameters = [zeros, zeros + 1, zeros, zeros + 1, torch.stack([values, values], 1)]
        for x in (torch.ones(1, len(values)), torch.ones(1, len(values), 3)):
            y = ops.pwlu(x.to(device, dtype), *parameters)
            expected = values.to(dtype).view(1, -1, *[1] * (x.dim() - 2)).expand_as(y)
            nan = expected.isnan()
            # Infinite points make NaN: inf - inf in the slope of the only segment.
            assert torch.equal(y[~nan], expected[~nan]), f'{dtype} is not rounded right'
            assert y[nan].isnan().all()


def test_storage_conversions(device):
    check_storage_conversions(device)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_storage_of_parameters(dtype, device):
    """The same for parameters, which have ways of their own, and their gradients.

    With x on each breakpoint a value is a point's, and its gradient the point's.
    """
    every = every_number(dtype).to(device)
    points = every[every.isfinite()].view(-1, 64)
    x = torch.arange(64.0, dtype=torch.float64, device=device)[:, None]
    zeros = torch.zeros_like(points[:, 0])
    bounds = [zeros, zeros + 63, zeros, zeros]
    y = ops.pwlu(x.expand(-1, len(points)), *bounds, points)
    assert torch.equal(y.T, points.double())
    rest = every[~every.isfinite()]
    zeros = torch.zeros_like(rest)
    pairs = torch.stack([rest, rest], 1)
    assert (
        not ops.pwlu(x[:1].expand(1, len(rest)), zeros, zeros + 1, zeros, zeros, pairs)
        .isfinite()
        .any()
    )

    values = numbers_to_round()
    values = values[values.isfinite()].to(device)
    values = values[: len(values) // 64 * 64].view(-1, 64)
    zeros = torch.zeros_like(values[:, 0])
    bounds = [zeros, zeros + 63, zeros, zeros]
    x = x.float().expand(-1, len(values))
    points = torch.zeros_like(values, dtype=dtype)
    *_, gradient = with_gradients(ops.pwlu, x, [*bounds, points], values.T)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, values.to(dtype))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_conversions_of_parameters(dtype, device):
    """Every number of a half precision as a parameter, and any float as a parameter's gradient."""
    values = every_number(dtype)
    values = values[values.isfinite()].to(device)
    zero, one = torch.zeros_like(values), torch.ones_like(values)
    parameters = (zero, one, zero, one, torch.stack([values, values], 1))
    x = one.float()[None]  # on B_R, where the function is Y_N
    assert torch.equal(ops.pwlu(x, *parameters), values.float()[None])
    # One beyond B_R the gradient of K_R is that of y.
    grad = numbers_to_round()[::7]
    grad = grad[grad.isfinite()].to(device)
    zero = torch.zeros_like(grad)
    parameters = [
        p.to(dtype) for p in (zero, zero + 1, zero, zero + 1, zero[:, None].expand(-1, 2))
    ]
    results = with_gradients(ops.pwlu, zero[None] + 2, parameters, grad[None])
    assert torch.equal(
        dict(zip(PWLU_PARAMETERS, results[2:], strict=True))['right_slope'], grad.to(dtype)
    )


# Bounds that meet or cross ------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('distance', [0.0, -1e-7, -2.0, 9e-7])
@pytest.mark.parametrize('channels', [1, 3])
def test_bounds_that_meet_or_cross(channels, distance, dtype, device):
    """They act as if right_bound were PWLU_MIN_WIDTH beside left_bound (see mmact.ops.pwlu)."""
    left, _, *rest = make_parameters(channels, 4, torch.float64, device, seed=5)
    left = left.to(dtype).double()  # exact bounds, so that no x lies within the tiny width
    if dtype != torch.float64:
        rest = [p.float().double() for p in rest]
    # Powers of two around the bound: x = left itself is on the left end of segment 0.
    offsets = [-4.0, -1.0, -0.5, -0.125, 0.125, 0.5, 2.0, 8.0]
    offsets = torch.tensor(offsets, dtype=torch.float64, device=device)
    x = (left + offsets[:, None]).to(dtype)
    grad = random_tensor(x.shape, dtype, device, seed=1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [p.to(wide) for p in (left, left + distance, *rest)]
    opened = [p.double() for p in parameters]
    opened[1] = opened[0] + reference.PWLU_MIN_WIDTH
    tolerance = {2: 2**-8, 4: 1e-5, 8: 1e-12}[dtype.itemsize]

    y, gx, *gradients = with_gradients(ops.pwlu, x, parameters, grad)
    assert_near(y, reference.pwlu(x.double(), *opened), tolerance, 'value')
    assert_near(
        ops.pwlu(x, *parameters, inference=True), reference.pwlu(x.double(), *opened), tolerance
    )
    left_k, right_k = (p.view(1, -1).double() for p in parameters[2:4])
    gy, below = grad.double(), x.double() < left
    assert_near(gx, gy * torch.where(below, left_k, right_k), tolerance, 'gradient of x')
    # Straight through: the gradients of Table 1, as if the bounds stood where they act.
    by_hand = {
        'left_bound': (-left_k * gy * below).sum(0),
        'right_bound': (-right_k * gy * ~below).sum(0),
        'left_slope': (gy * (x.double() - left) * below).sum(0),
        'right_slope': (gy * (x.double() - left) * ~below).sum(0),
    }
    for name, g in zip(PWLU_PARAMETERS, gradients, strict=True):
        if name in by_hand:
            assert_near(g, by_hand[name].view(-1), 1e-5, name)
    points = gradients[4]
    assert_near(points[:, 0], (gy * below).sum(0).view(-1), 1e-5, 'first point')
    assert_near(points[:, -1], (gy * ~below).sum(0).view(-1), 1e-5, 'last point')
    assert torch.equal(points[:, 1:-1], torch.zeros_like(points[:, 1:-1]))


@pytest.mark.parametrize('function', [ops.pwlu, reference.pwlu], ids=['kernel', 'reference'])
@pytest.mark.parametrize('distance', [0.0, -1.0])
def test_x_on_meeting_bounds(function, distance, device):
    """x on the bound lies in segment 0 of the tiny width: the value is the first point."""
    left, _, *rest = make_parameters(3, 4, device=device)
    y = function(left.expand(5, 3), left, left + distance, *rest)
    assert_near(y, rest[2][:, 0].expand(5, 3), 1e-9)


def test_learning_opens_crossed_bounds():
    """Gradients do not vanish where the minimum width acts: descent can bring the bounds apart."""
    left = torch.tensor([1.0], requires_grad=True)
    right = torch.tensor([-1.0], requires_grad=True)
    rest = [torch.tensor(v) for v in ([0.0], [1.0], [[0.0, 0.0]])]
    x = torch.linspace(-4, 6, 201)
    target = torch.where(x < 3, 0.0, x - 3)  # the corner belongs at 3
    for _ in range(200):
        loss = (ops.pwlu(x, left, right, *rest) - target).square().mean()
        gradients = torch.autograd.grad(loss, (left, right))
        with torch.no_grad():
            right -= 0.2 * gradients[1]
            left -= 0.2 * gradients[0]
    assert right.item() == pytest.approx(3, abs=0.5)
    assert loss.item() < 0.05
