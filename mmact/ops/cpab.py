# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::cpab``: CPAB transformations of the line, in closed form.

Source: Freifeld, Hauberg, Batmanghelich, Fisher, Transformations based on continuous
piecewise-affine velocity fields, TPAMI 2017. DiTAC (:mod:`mmact.activations.ditac`) is made of
them.

A transformation is worked out in two steps. :func:`segment_table` turns velocities into a table in
differentiable operations in float64: a trajectory starts in one cell of the tessellation and ends
in one, and the points that share both form a segment. ``mmact::cpab`` then finds the segment of
each element, evaluates one formula with the segment's constants, and in backward adds up gradients
per segment. ``mmact::cpab_table`` is the kernels' segment_table.

``mmact::cpab`` also multiplies by a factor that depends on x, which makes it DiTAC in one pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _exportable
from ._arguments import choice, dense_floats, number, parameters, refuse, several
from ._compat import TAGGED, register_autograd, register_fake
from ._elementwise import call, define_elementwise
from ._exportable import cummax, diff, expm1, ndtr, searchsorted, sort
from ._library import LIBRARY, check_groups, dense, has_kernel, once_differentiable
from ._transforms import gradients, use_reference
from .norm import Norm
from .reference import opmath_dtype

#: Largest velocity that acts, in cells of the tessellation per unit of time. Slopes of the field
#: are then at most 64, and exp(64) is in the range of float32.
MAX_SPEED = 32.0

#: Velocities up to this, in cells per unit of time, count as 0: nothing passes the knot.
_STILL = 1e-60

#: Columns of the table: reference point, T(reference) - reference, T' there minus 1, and the slopes
#: of the field in the first and last cell, divided by the velocity at the reference.
_COLUMNS = 5

#: What mmact::cpab multiplies T(x) by: 1; the normal distribution function of x; the same for x < 0
#: and 1 beyond; LeakyReLU's slopes outside of the domain.
FACTORS = ('one', 'gelu', 'gelu_below_0', 'leaky')


# (exp(z) - 1) / z and log(1 + z) / z --------------------------------------------------------------

_SERIES_BELOW = 0.1
_TERMS = 18
_EXPM1 = [1 / math.factorial(k + 1) for k in range(_TERMS)]
_LOG1P = [(-1) ** k / (k + 1) for k in range(_TERMS)]


def _ratio(z: Tensor, function: Callable, coefficients: list[float]) -> Tensor:
    """function(z) / z, from its series near 0, where autograd's quotient rule would cancel."""
    near = z.abs() < _SERIES_BELOW
    close = torch.where(near, z, 0)
    series = torch.full_like(z, coefficients[-1])
    for c in coefficients[-2::-1]:
        series = series * close + c
    far = torch.where(near, 1, z)
    return torch.where(near, series, function(far) / far)


def _expm1_ratio(z: Tensor) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _exportable.expm1_ratio(z)
    return _ratio(z, torch.expm1, _EXPM1)


def _log1p_ratio(z: Tensor) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _exportable.log1p_ratio(z)
    return _ratio(z, torch.log1p, _LOG1P)


def _with_derivative(z: Tensor, value: Tensor, slope: Tensor, coefficients: list[float]):
    """(function(z) / z, its derivative) from function(z) and function'(z)."""
    still = z == 0
    safe = z.masked_fill(still, 1)
    ratio = (value / safe).masked_fill(still, 1)
    series = torch.zeros_like(z)
    for k in range(_TERMS - 1, 0, -1):
        series = series * z + k * coefficients[k]
    return ratio, torch.where(z.abs() < _SERIES_BELOW, series, (slope - ratio) / safe)


# The table ----------------------------------------------------------------------------------------


def _arrival_times(velocity: Tensor, width: float) -> Tensor:
    """Time needed from knot 0 to each knot at the speeds between them, (G, N + 1).

    Cells that take longer than the one unit of time there is, or that nothing crosses because the
    field changes sign, count 2, so that differences keep their precision.
    """
    speed, still = velocity.abs(), _STILL * width
    left, right = speed[:, :-1], speed[:, 1:]
    crossed = (velocity.sign()[:, :-1] * velocity.sign()[:, 1:] > 0) & (
        torch.minimum(left, right) > still
    )
    slow = torch.where(crossed, torch.minimum(left, right), 1)
    fast = torch.where(crossed, torch.maximum(left, right), 1)
    time = width / slow * _log1p_ratio(fast / slow - 1)
    return F.pad(torch.where(crossed & (time < 1.5), time, 2).cumsum(1), (1, 0))


def _preimages(velocity: Tensor, slope: Tensor, arrival: Tensor, knots: Tensor) -> Tensor:
    """Where the trajectories begin that are at the inner knots at time 1, ascending (G, N - 1)."""
    width = (knots[-1] - knots[0]) / slope.size(1)
    inner, now = velocity[:, 1:-1], arrival[:, 1:-1]
    rightward = inner > 0
    # Backwards in time, the last knot that is passed: to the left if the field points to the right.
    before = searchsorted(arrival, now - 1, right=True).clamp(1, slope.size(1))
    after = searchsorted(arrival, now + 1).clamp(1, slope.size(1)) - 1
    last = torch.where(rightward, before, after)
    cell = torch.where(rightward, before - 1, after)
    time = 1 - (now - arrival.gather(1, last)).abs()
    v, s = velocity.gather(1, last), slope.gather(1, cell)
    result = knots[last] - v * time * _expm1_ratio(-s * time)
    # Where the trajectory comes from near the cell's other knot, counted from there.
    other = cell + ~rightward
    steep = s * time > 0.5
    start = v * torch.exp(-s * time) - velocity.gather(1, other)
    result = torch.where(steep, knots[other] + start / torch.where(steep, s, 1), result)
    result = torch.clamp(result, knots[cell], knots[cell + 1])
    result = torch.where(inner.abs() > _STILL * width, result, knots[1:-1])
    return cummax(result)


def segment_table(
    theta: Tensor,
    domain: tuple[float, float],
    extend: str = 'identity',
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """The segments of a CPAB transformation and the constants of their formulas.

    Between neighbouring breakpoints a trajectory's first cell and its last are the same for all
    points. With z = x - p the transformation is ``x + d + z * ((1 + m) * f - 1)``, where
    ``f = log1p(A) / A * expm1(B) / B``, ``A = alpha z``, ``B = beta z log1p(A) / A``. In
    the table, a segment that stays in one cell has alpha = beta = 0, so that f = 1. The reference
    point p is the end of the segment where the field is slower, so that A >= 0 and log1p does not
    cancel.

    The first and the last segment are what is outside the domain, ``d + (1 + m) * x``.

    Args:
        theta: Velocities at the inner knots, (G, N - 1).
        domain: (a, b).
        extend: As of :func:`cpab`.
        dtype: Breakpoints and reference points are rounded to it, and the other constants are
            those of the rounded ones.

    Returns:
        Breakpoints (G, 2 N), ascending, and the table (G, 2 N + 1, 5) with columns
        p, d, m, alpha, beta, both float64. The table is differentiable in theta; p and the
        breakpoints are constants, because T is continuous.
    """
    a, b = domain
    cells = theta.size(1) + 1
    width = (b - a) / cells
    fastest = MAX_SPEED * width
    velocity = F.pad(theta.double().clamp(-fastest, fastest), (1, 1))
    slope = diff(velocity) / width
    arrival = _arrival_times(velocity, width)
    knots = torch.linspace(a, b, cells + 1, dtype=torch.float64, device=theta.device)

    with torch.no_grad():
        # Detached for forward mode as well, which no_grad does not stop.
        fixed, fixed_slope = velocity.detach(), slope.detach()
        preimages = _preimages(fixed, fixed_slope, arrival.detach(), knots)
        images = _preimages(-fixed, -fixed_slope, arrival.detach(), knots)  # of the inner knots
        groups, last_knot = theta.size(0), knots[-1:].expand(theta.size(0), 1)
        edges = torch.cat([knots.expand(groups, -1), preimages], 1).to(dtype).double()
        ends = [knots[:1].expand(groups, 1), images, last_knot, knots[1:-1].expand(groups, -1)]
        edges, order = sort(edges)
        targets = cummax(torch.cat(ends, 1).gather(1, order))  # T(edges)
        first = ((order <= cells).long().cumsum(1)[:, :-1] - 1).clamp(0, cells - 1)
        last = (order > cells).long().cumsum(1)[:, :-1]
        rightward = last > first
        leave, enter = first + rightward, last + ~rightward
        speed = fixed.abs()
        passes = torch.minimum(speed.gather(1, leave), speed.gather(1, enter))
        moving = (last != first) & (passes > _STILL * width)
        # Where T is so steep that rounding x moves T(x) by much of a cell, a segment of few numbers
        # is taken for a straight line, without a gradient for theta.
        span = diff(edges)
        ulp = torch.finfo(dtype).eps * torch.maximum(edges[:, :-1].abs(), edges[:, 1:].abs())
        steep = torch.exp(fixed_slope.gather(1, first).abs() + fixed_slope.gather(1, last).abs())
        narrow = (span <= 16 * ulp) & (steep * ulp > 1e-3 * width)
        start = knots[first]
        left, right = [
            fixed.gather(1, first) + fixed_slope.gather(1, first) * (edge - start)
            for edge in (edges[:, :-1], edges[:, 1:])
        ]
        slower = moving & ~narrow & (right.abs() < left.abs())
        p = torch.where(slower, edges[:, 1:], edges[:, :-1])

    s, s_last = slope.gather(1, first), slope.gather(1, last)
    # The velocity at p, from the nearer knot of its cell.
    near = first + (p - start > width / 2)
    v = velocity.gather(1, near) + s * (p - knots[near])
    stay = v * _expm1_ratio(s)

    # Segments that cross knots. A bound may be rounded to where, by the formula, the time in the
    # first cell is not from 0 to what the cells between leave over. By a little that does not
    # matter; beyond, the velocity at p is taken to be what it is at the limit.
    v_leave = torch.where(moving, velocity.gather(1, leave), 1)
    between = (arrival.gather(1, leave) - arrival.gather(1, enter)).abs()
    with torch.no_grad():
        still_s = s.detach()
        margin = 0.25 / (1 + still_s.abs() + s_last.detach().abs())
        longest = (1 - between.detach()).clamp(0, 1) + margin
        low = -longest * _expm1_ratio(-still_s * longest)
        high = margin * _expm1_ratio(still_s * margin)
    u = torch.clamp((p - knots[leave]) / v_leave, low, high)
    change = s * u
    slowed = change < -0.5  # then 1 + change would cancel
    ratio = torch.where(slowed, torch.maximum(v / v_leave, torch.exp(-s.detach() * longest)), 1)
    in_first = torch.where(
        slowed,
        ratio.log() / torch.where(slowed, s, 1),
        u * _log1p_ratio(torch.where(slowed, 0, change)),
    )
    v = torch.where(moving, v_leave * torch.where(slowed, ratio, 1 + change), 1)
    time = 1 - between.clamp(max=1.5) + in_first
    v_enter = velocity.gather(1, enter)
    move = knots[enter] - p + v_enter * time * _expm1_ratio(s_last * time)
    stretch = v_enter * torch.exp(s_last * time) / v - 1

    curved = moving & ~narrow
    shift, stretch = torch.where(moving, move, stay), torch.where(moving, stretch, expm1(s))
    straight = diff(targets) / torch.where(span > 0, span, 1) - 1
    table = torch.stack(
        [
            p,
            torch.where(narrow, targets[:, :-1] - p, shift),
            torch.where(narrow, straight, stretch),
            torch.where(curved, s / v, 0),
            torch.where(curved, s_last / v, 0),
        ],
        2,
    )
    outer = [torch.zeros_like(table[:, :1])] * 2
    if extend == 'affine':
        for k, (end, cell) in enumerate(((a, 0), (b, -1))):
            grown = expm1(slope[:, cell])
            outer[k] = F.pad(torch.stack([-end * grown, grown], 1), (1, 2)).unsqueeze(1)
    return edges, torch.cat([outer[0], table, outer[1]], 1)


# The elements -------------------------------------------------------------------------------------


def _rows(x: Tensor, groups: int, channel_dim: int) -> Tensor:
    """x as (G, M), a row for each group of channels."""
    x = x if groups == 1 else x.movedim(channel_dim, 0)
    return x.reshape(groups, -1).contiguous()


def _from_rows(rows: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Returns a result for _rows(x) in x's shape, dtype and memory format."""
    if rows.size(0) > 1:
        shape = x.movedim(channel_dim, 0).shape
        return dense(x, rows.reshape(shape).movedim(0, channel_dim).to(x.dtype))
    return dense(x, rows.reshape(x.shape).to(x.dtype))


def _look_up(value: Tensor, breakpoints: Tensor, table: Tensor):
    """Returns each element's row of the table and its constants, for both directions."""
    groups, segments = table.shape[:2]
    edges = breakpoints.to(value.dtype)
    index = searchsorted(edges, value, right=True)
    # NaN is put into the domain, so that the gradient of theta shows it.
    index = torch.where(value.isnan(), 1, index)
    inside = (index > 0) & (index < segments - 1)
    index = index + segments * torch.arange(groups, device=index.device).unsqueeze(1)
    largest = torch.finfo(value.dtype).max / 8
    constants = table.clamp(-largest, largest).to(value.dtype).reshape(-1, _COLUMNS)
    p, shift, gain, alpha, beta = (column[index] for column in constants.unbind(1))
    z = torch.where(inside, value - p, 0)
    return index, inside, z, shift, gain, alpha, beta


def _flow(value: Tensor, inside: Tensor, z: Tensor, shift: Tensor, gain: Tensor, f: Tensor):
    """T(x)."""
    return torch.where(
        inside, value + (shift + z * (gain * f + (f - 1))), shift + (1 + gain) * value
    )


def _bounded(flowed: Tensor) -> Tensor:
    """Finite: 0 * infinity has no place in a product with a factor that goes to 0."""
    largest = torch.finfo(flowed.dtype).max
    return flowed.clamp(-largest, largest)


def _factor(value: Tensor, inside: Tensor, factor: str, negative_slope: float) -> Tensor:
    if factor == 'leaky':
        return torch.ones_like(value).masked_fill((value < 0) & ~inside, negative_slope)
    cdf = ndtr(value)
    return torch.where(value < 0, cdf, 1) if factor == 'gelu_below_0' else cdf


def apply_table(
    x: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    channel_dim: int,
    factor: str = 'one',
    negative_slope: float = 0.0,
) -> Tensor:
    """T(x), times a factor, from a table, in PyTorch operations that autograd differentiates.

    Source: the formula of :func:`segment_table`.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        breakpoints: (G, E), ascending, as :func:`segment_table` gives them.
        table: (G, E + 1, 5), in units of x.
        channel_dim: Dimension of x whose channels the G groups share. Ignored if G is 1.
        factor: As of :func:`cpab`.
        negative_slope: Of the factor ``'leaky'``.

    Returns:
        Tensor of x's shape, dtype and memory format.

    Raises:
        RuntimeError: From PyTorch, if the shapes do not fit each other.
    """
    settings = (channel_dim, factor, negative_slope)
    return _apply(x, breakpoints, table, *settings, _log1p_ratio, _expm1_ratio)


def _quick_ratio(z: Tensor, function: Callable) -> Tensor:
    """function(z) / z, where no derivative is asked for."""
    still = z == 0
    return (function(z) / z.masked_fill(still, 1)).masked_fill(still, 1)


def _quick(
    x: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    channel_dim: int,
    factor: str,
    negative_slope: float,
):
    ratios = (functools.partial(_quick_ratio, function=f) for f in (torch.log1p, torch.expm1))
    return _apply(x, breakpoints, table, channel_dim, factor, negative_slope, *ratios)


def _apply(
    x: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    channel_dim: int,
    factor: str,
    negative_slope: float,
    log1p_ratio: Callable,
    expm1_ratio: Callable,
) -> Tensor:
    value = _rows(x.to(opmath_dtype(x.dtype)), table.size(0), channel_dim)
    _, inside, z, shift, gain, alpha, beta = _look_up(value, breakpoints, table)
    slower = log1p_ratio(alpha * z)
    f = slower * expm1_ratio(beta * z * slower)
    y = _flow(value, inside, z, shift, gain, f)
    if factor != 'one':
        finite = torch.where(value < 0, _bounded(y), y) if 'gelu' in factor else y
        y = finite * _factor(value, inside, factor, negative_slope)
    return _from_rows(y, x, channel_dim)


def _backward(
    grad: Tensor,
    x: Tensor,
    breakpoints: Tensor,
    table: Tensor,
    channel_dim: int,
    factor: str,
    negative_slope: float,
):
    dtype, groups = opmath_dtype(x.dtype), table.size(0)
    value, gy = (_rows(t.to(dtype), groups, channel_dim) for t in (x, grad))
    index, inside, z, shift, gain, alpha, beta = _look_up(value, breakpoints, table)
    change = alpha * z
    slower, d_slower = _with_derivative(change, torch.log1p(change), 1 / (1 + change), _LOG1P)
    late = beta * z * slower
    exp = torch.exp(late)
    faster, d_faster = _with_derivative(late, torch.expm1(late), exp, _EXPM1)
    by_factor = torch.zeros_like(gy)
    if factor != 'one':
        if 'gelu' in factor:
            flowed = _bounded(_flow(value, inside, z, shift, gain, slower * faster))
            pdf = torch.exp(-0.5 * value * value) / math.sqrt(2 * math.pi)
            by_factor = gy * (flowed * pdf)
            if factor == 'gelu_below_0':
                by_factor = torch.where(value < 0, by_factor, 0)
        gy = gy * _factor(value, inside, factor, negative_slope)
    gx = gy * torch.where(inside, (1 + gain) * exp / (1 + change), 1 + gain) + by_factor
    # By the table: T is shift + (1 + gain) z slower faster, and outside shift + (1 + gain) value.
    scaled = (1 + gain) * z * z * gy
    terms = (
        gy,
        gy * torch.where(inside, z * slower * faster, value),
        scaled * d_slower * (faster + slower * d_faster * (beta * z)),
        scaled * slower * slower * d_faster,
    )
    sums = [
        torch.bincount(index.flatten(), term.double().flatten(), groups * table.size(1))
        for term in terms
    ]
    g_table = torch.stack([torch.zeros_like(sums[0]), *sums], 1).reshape(table.shape)
    return _from_rows(gx, x, channel_dim), g_table.to(table.dtype)


_PLAIN = 'segment_table and apply_table of the module mmact.ops.cpab'
define_elementwise(
    'cpab',
    'Tensor breakpoints, Tensor table, int channel_dim, str factor, float negative_slope',
    (2,),
    apply_table,
    _backward,
    quick=_quick,
    differentiable=_PLAIN,
)


# The table's kernels. They have no eager form: segment_table is made of differentiable operations.

_DOMAIN = 'Tensor theta, float a, float b, bool affine, bool single'
LIBRARY.define(f'cpab_table({_DOMAIN}) -> (Tensor, Tensor)', **TAGGED)
LIBRARY.define(f'cpab_table_bwd(Tensor grad, {_DOMAIN}) -> Tensor', **TAGGED)


@register_fake('mmact::cpab_table', lib=LIBRARY)
def _(theta: Tensor, a: Tensor, b: Tensor, affine: bool, single: bool):
    count = 2 * (theta.size(1) + 1)
    breakpoints = theta.new_empty((theta.size(0), count), dtype=torch.float64)
    return breakpoints, breakpoints.new_empty((theta.size(0), count + 1, _COLUMNS))


@register_fake('mmact::cpab_table_bwd', lib=LIBRARY)
def _(grad: Tensor, theta: Tensor, a: Tensor, b: Tensor, affine: bool, single: bool):
    return theta.new_empty(theta.shape)


def _setup_table_context(ctx: Any, inputs: tuple, output: Any):
    theta, *ctx.domain = inputs
    ctx.save_for_backward(theta)


def _table_backward(ctx: Any, _: Any, grad: Tensor):
    if torch.is_grad_enabled():  # create_graph
        a, b, affine, single = ctx.domain
        extend = 'affine' if affine else 'identity'
        dtype = torch.float32 if single else torch.float64

        def function(theta: Tensor):
            return segment_table(theta, (a, b), extend, dtype)[1]

        return (*gradients(function, ctx.saved_tensors, grad), None, None, None, None)
    g_theta = torch.ops.mmact.cpab_table_bwd(grad, *ctx.saved_tensors, *ctx.domain)
    return g_theta, None, None, None, None


register_autograd(
    'mmact::cpab_table', _table_backward, setup_context=_setup_table_context, lib=LIBRARY
)
once_differentiable('cpab_table', _PLAIN)

_TABLE_KERNELS = tuple(device for device in ('cpu', 'cuda') if has_kernel('cpab_table', device))


def _table(x: Tensor, theta: Tensor, domain: tuple[float, float], extend: str):
    """Breakpoints and table for x, made by a kernel where there is one."""
    dtype = opmath_dtype(x.dtype)
    if theta.device.type not in _TABLE_KERNELS or use_reference():
        return segment_table(theta, domain, extend, dtype)
    single = dtype != torch.float64
    return torch.ops.mmact.cpab_table(theta, *domain, extend == 'affine', single)


def cpab(
    x: Tensor,
    theta: Tensor,
    domain: tuple[float, float],
    channel_dim: int = 1,
    extend: str = 'identity',
    factor: str = 'one',
    negative_slope: float = 0.0,
    norm: Norm | None = None,
) -> Tensor:
    """CPAB transformation T(x): where a velocity field carries x in one unit of time.

    The field v is continuous, affine in each of N cells of equal width on [a, b], and 0 at a and b;
    T(x) is the solution at time 1 of dx/dt = v(x). It increases, is continuous, maps [a, b] onto
    itself, and is evaluated in closed form, with exact gradients for x and theta.
    ``cpab(y, -theta, domain)`` is the inverse.

    Velocities act up to ``MAX_SPEED`` cells per unit of time; beyond, they are clamped and have no
    gradient. T' reaches e to the power of the slope of the field, so that rounding x by one unit
    in the last place may move T(x) by as many times that.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        theta: Velocities at the inner knots, (G, N - 1) with N >= 2, in units of x per unit
            of time; a set for each of G groups of neighbouring channels: 1 for all of x, the number
            of channels C, or a divisor of C.
        domain: (a, b), finite, a < b.
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        extend: T outside of [a, b]. ``'identity'``: x. ``'affine'``: the flow of the outer cells'
            affine fields continued, a + exp(slope) * (x - a), and likewise at b.
        factor: What T(x) is multiplied by: ``'one'``; ``'gelu'``, the standard normal distribution
            function of x; ``'gelu_below_0'``, the same for x < 0 and 1 beyond; ``'leaky'``,
            negative_slope where x < 0 is outside of [a, b], else 1.
        negative_slope: Of ``'leaky'``.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN gives NaN, and infinities the limits of
        the function.

    Raises:
        TypeError: If x or theta has another dtype or is no dense tensor.
        ValueError: If shapes or devices do not fit each other, or domain, extend, factor or
            negative_slope are not as above.
    """
    parameters('cpab', dense_floats('cpab', 'x', x), theta=theta)
    if theta.dim() != 2 or not theta.numel():
        raise ValueError(
            f'cpab: theta must have shape (G, N - 1) with N >= 2 cells, got {tuple(theta.shape)}'
        )
    domain = check_domain('cpab', domain)
    extend = choice('cpab', 'extend', extend, ('identity', 'affine'))
    factor = choice('cpab', 'factor', factor, FACTORS)
    negative_slope = number('cpab', 'negative_slope', negative_slope)
    channel_dim = check_groups('cpab', x, theta.size(0), channel_dim)
    breakpoints, table = _table(x, theta, domain, extend)
    return call('cpab', x, breakpoints, table, channel_dim, factor, negative_slope, norm=norm)


def check_domain(name: str, domain: tuple[float, float]) -> tuple[float, float]:
    """Raises a ValueError, in the name of an op or layer, unless domain is two numbers, a < b."""
    wanted = 'two finite numbers (a, b) with a < b'
    a, b = several(name, 'domain', domain, 2, wanted)
    if a >= b:
        refuse(name, 'domain', wanted, domain)
    return a, b
