# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact::pwlu where it is delicate: exact ends, non-finite numbers, bounds that meet or cross."""

import math

import pytest
import torch

from mmact import ops
from mmact.ops import reference

from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_PARAMETERS,
    assert_near,
    between_breakpoints,
    compare_pwlu,
    generator,
    make_parameters,
    random_tensor,
    with_gradients,
)

INF, NAN = math.inf, math.nan


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


def exact_case(left, length, n, dtype, channels=1):
    """Parameters with exact ends, distinct slopes, and x on every end in every lane of a vector."""
    ends = left + length * torch.arange(n + 1, dtype=torch.float64)
    slopes = torch.arange(n + 2, dtype=torch.float64).flip(0) / 4 - 1  # of segments -1 to N
    points = torch.cat([torch.zeros(1).double(), (slopes[1:-1] * length).cumsum(0)])
    numbers = (ends[:1], ends[-1:], slopes[:1], slopes[-1:], points[None])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [p.repeat(channels, *[1] * (p.dim() - 1)).to(wide) for p in numbers]
    # Often enough that each end comes to lie in several lanes of a vector.
    x = ends.repeat(17).to(dtype)
    assert torch.equal(x[: n + 1].double(), ends), 'not exact in this dtype'
    return parameters, x, slopes


def check_exact_edges():
    """On the left end of segment k derivative and sums are those of segment k.

    Eq. 1 closes every segment on the left; the right bound belongs to the region beyond it.
    """
    for dtype in DTYPES:
        for left, length, n in EXACT:
            parameters, x, slopes = exact_case(left, length, n, dtype)
            y, gx, *gradients = with_gradients(ops.pwlu, x, parameters, torch.ones_like(x))
            what = f'{dtype} {left} {length} {n}'
            # segment 0 begins at B_L, segment N at B_R
            expected = slopes[1:].repeat(17)
            assert torch.equal(gx.double(), expected), what
            values = parameters[4][0].double().repeat(17)
            assert torch.equal(y.double(), values.to(dtype).double()), what
            # x is each segment's left end: the whole gradient goes to its own point.
            points = dict(zip(PWLU_PARAMETERS, gradients, strict=True))['points']
            assert torch.equal(points, torch.full_like(points, 17)), what
            for channels, shape, dim in ((3, (2, 3, -1), 1), (5, (3, -1, 5), 2)):
                wide, x, _ = exact_case(left, length, n, dtype, channels)
                # The same ends in every channel, as planes and as tokens.
                x = x.reshape(1, 1, -1) if dim == 1 else x.reshape(1, -1, 1)
                x = x.expand([s if s > 0 else max(x.shape) for s in shape])
                compare_pwlu(x, wide, torch.ones_like(x), dim, what=f'{what} {shape}')


def test_exact_edges():
    check_exact_edges()


@pytest.mark.parametrize('form', ['kernel', 'reference'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_bounds_are_exact_whatever_the_rounding(dtype, form):
    """The numbers next to a bound fall on the right side of it, for bounds that are not round.

    x < B_L goes on with K_L, x = B_L does not; x = B_R goes on with K_R, x < B_R does not.
    """
    function = ops.pwlu if form == 'kernel' else reference.pwlu
    channels, n = 500, 3
    left, right, *rest = make_parameters(channels, n, dtype, seed=3)
    infinity = torch.tensor(INF, dtype=dtype)
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


# Non-finite numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second', 'vector'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('bad', [NAN, INF, -INF])
@pytest.mark.parametrize('num_intervals', [16, 64])
def test_only_non_finite_elements_become_non_finite(bad, dtype, layout, inference, num_intervals):
    kind = LAYOUTS[layout]
    parameters = make_parameters(16, num_intervals, torch.float32)
    shape = kind.shape(16)
    clean = between_breakpoints(shape, parameters, kind.channel_dim, dtype)
    where = torch.zeros(shape, dtype=torch.bool)
    where.view(-1)[::5] = True
    x = kind.place(clean.masked_fill(where, bad))

    def run(t):
        return ops.pwlu(t, *parameters, channel_dim=kind.channel_dim, inference=inference)

    y = run(x)
    expected = run(kind.place(clean))
    assert torch.equal(y[~where], expected[~where])
    if math.isnan(bad):
        assert y[where].isnan().all()
    else:
        slope = parameters[3] if bad > 0 else parameters[2]
        shape = [1] * len(shape)
        shape[kind.channel_dim] = -1
        sign = (slope.sign() * math.copysign(1, bad)).reshape(shape).expand(where.shape)
        assert torch.equal(y[where].float(), sign[where] * INF)


@pytest.mark.parametrize('layout', ['nchw', 'tokens'])
def test_nan_spoils_the_gradients_of_its_channel_only(layout):
    kind = LAYOUTS[layout]
    parameters = make_parameters(16, 8, torch.float32)
    shape = kind.shape(16)
    x = between_breakpoints(shape, parameters, kind.channel_dim, torch.float32)
    grad = random_tensor(shape, torch.float32, seed=2)

    def run(x):
        return with_gradients(
            lambda x, *p: ops.pwlu(x, *p, channel_dim=kind.channel_dim), x, parameters, grad
        )

    clean = run(kind.place(x))
    x.movedim(kind.channel_dim, 0)[4, 1, 2] = NAN
    spoilt = run(kind.place(x))
    others = torch.arange(16) != 4
    for name, a, b in zip(PWLU_PARAMETERS, clean[2:], spoilt[2:], strict=True):
        assert torch.equal(a[others], b[others]), name
    points = spoilt[-1][4]
    assert not points.isfinite().all(), 'a training loop could not notice the NaN'


@pytest.mark.parametrize('bad', [NAN, INF])
@pytest.mark.parametrize('layout', ['nchw', 'tokens'])
def test_non_finite_gradient(layout, bad):
    """It stays in its element and its channel; nothing is read or written out of range."""
    kind = LAYOUTS[layout]
    parameters = make_parameters(16, 8, torch.float32)
    x = kind.place(between_breakpoints(kind.shape(16), parameters, kind.channel_dim, torch.float32))
    grad = random_tensor(x.shape, torch.float32, seed=2)
    where = torch.zeros(x.shape, dtype=torch.bool)
    where.movedim(kind.channel_dim, 0)[4, 1, 2] = True

    def run(grad):
        return with_gradients(
            lambda x, *p: ops.pwlu(x, *p, channel_dim=kind.channel_dim), x, parameters, grad
        )

    clean, spoilt = run(grad), run(grad.masked_fill(where, bad))
    assert torch.equal(clean[1][~where], spoilt[1][~where])
    assert not spoilt[1][where].isfinite().any()
    others = torch.arange(16) != 4
    for name, a, b in zip(PWLU_PARAMETERS, clean[2:], spoilt[2:], strict=True):
        assert torch.equal(a[others], b[others]), name
    assert not spoilt[-1][4].isfinite().all()


@pytest.mark.parametrize('layout', ['nchw', 'tokens'])
@pytest.mark.parametrize('bad', [NAN, INF, -INF])
@pytest.mark.parametrize('which', range(5), ids=PWLU_PARAMETERS)
def test_non_finite_parameters(which, bad, layout):
    """They spoil their channel and no other, and never crash."""
    kind = LAYOUTS[layout]
    parameters = make_parameters(16, 16, torch.float32)
    x = between_breakpoints(kind.shape(16), parameters, kind.channel_dim, torch.float32)
    grad = random_tensor(x.shape, torch.float32, seed=2)

    def run(inference):
        return with_gradients(
            lambda x, *p: ops.pwlu(x, *p, channel_dim=kind.channel_dim, inference=inference),
            x,
            parameters,
            grad,
        )

    clean = [run(False), run(True)]
    parameters[which][5] = bad
    others = torch.arange(16) != 5
    for before, after in zip(clean, [run(False), run(True)], strict=True):
        for i, (a, b) in enumerate(zip(before, after, strict=True)):
            dim = kind.channel_dim if i < 2 else 0
            a, b = (t.movedim(dim, 0) for t in (a, b))
            assert torch.equal(a[others], b[others])
    if math.isnan(bad):
        assert after[0].select(kind.channel_dim, 5).isnan().any()


@pytest.mark.parametrize('magnitude', [1e4, 1e12, 1e30, 3e38])
def test_huge_x(magnitude):
    """Beyond the range of integers the segments are still the outer ones."""
    parameters = make_parameters(2, 16, torch.float32)
    x = torch.tensor([[-magnitude, magnitude]] * 9).T.contiguous().repeat(2, 1).view(2, 2, 9)
    grad = torch.ones_like(x)
    _, gx, *gradients = with_gradients(ops.pwlu, x, parameters, grad)
    expected = torch.where(x < 0, parameters[2].view(1, 2, 1), parameters[3].view(1, 2, 1))
    assert torch.equal(gx, expected)
    points = gradients[4]
    assert torch.equal(points[:, 1:-1], torch.zeros(2, 15))
    assert torch.equal(points[:, 0] + points[:, -1], torch.full((2,), 18.0))
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


def check_storage_conversions():
    """float16 and bfloat16 are read and rounded as PyTorch does it, every bit of it.

    Reading: all 65536 of them, through the identity. Rounding: a wide value stands in Y_N, and x on
    B_R, so that the value itself is the result.
    """
    bits = torch.randint(-(2**31), 2**31, (60000,), generator=generator(0)).to(torch.int32)
    halfway = torch.arange(-(2**15), 2**15) * 2**16
    for offset in (-1, 0, 1):  # ties of bfloat16, and their neighbours
        bits = torch.cat([bits, (halfway + 2**15 + offset).to(torch.int32)])
    ties = (torch.arange(2**14, dtype=torch.int32) * 2 + 1).to(torch.float32) * 2.0**-25
    values = torch.cat([bits.view(torch.float32), ties, -ties, ties * 2**12, 65504 + ties * 2**12])
    identity = [torch.tensor(v) for v in ([0.0], [1.0], [1.0], [1.0], [[0.0, 1.0]])]
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        y = ops.pwlu(x, *identity)
        nan = x.isnan()
        assert torch.equal(y[~nan], x[~nan]), f'{dtype} is not read right'
        assert y[nan].isnan().all()
        assert not y[~nan].isnan().any()

        zeros = torch.zeros_like(values)
        parameters = [zeros, zeros + 1, zeros, zeros + 1, torch.stack([values, values], 1)]
        for x in (torch.ones(1, len(values)), torch.ones(1, len(values), 3)):
            y = ops.pwlu(x.to(dtype), *parameters)
            expected = values.to(dtype).view(1, -1, *[1] * (x.dim() - 2)).expand_as(y)
            nan = expected.isnan()
            # Infinite points make NaN: inf - inf in the slope of the only segment.
            assert torch.equal(y[~nan], expected[~nan]), f'{dtype} is not rounded right'
            assert y[nan].isnan().all()


def test_storage_conversions():
    check_storage_conversions()


# Bounds that meet or cross ------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('distance', [0.0, -1e-7, -2.0, 9e-7])
@pytest.mark.parametrize('channels', [1, 3])
def test_bounds_that_meet_or_cross(channels, distance, dtype):
    """They act as if right_bound were PWLU_MIN_WIDTH beside left_bound (see mmact.ops.pwlu)."""
    left, _, *rest = make_parameters(channels, 4, torch.float64, seed=5)
    left = left.to(dtype).double()  # exact bounds, so that no x lies within the tiny width
    if dtype != torch.float64:
        rest = [p.float().double() for p in rest]
    # Powers of two around the bound: x = left itself is on the left end of segment 0.
    offsets = [-4.0, -1.0, -0.5, -0.125, 0.125, 0.5, 2.0, 8.0]
    x = (left + torch.tensor(offsets, dtype=torch.float64)[:, None]).to(dtype)
    grad = random_tensor(x.shape, dtype, seed=1)
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
def test_x_on_meeting_bounds(function, distance):
    """x on the bound lies in segment 0 of the tiny width: the value is the first point."""
    left, _, *rest = make_parameters(3, 4)
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
