# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ops in plain PyTorch, written from the papers' equations and independent of the kernels.

They are what the kernels are tested against (in float64), and what runs where no kernel exists.
All of them work in any floating dtype and on any device; float16 and bfloat16 are computed in
float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Smallest effective width ``right_bound - left_bound`` of a PWLU. Bounds that learning brings
#: closer, or lets cross, act as if they were this far apart, measured from the left one.
PWLU_MIN_WIDTH = 1e-6

#: C of AReLU: the range of alpha that acts, and outside of which it has no gradient.
ARELU_CLAMP = (0.01, 0.99)


def opmath_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which arithmetic on ``dtype`` is done: float32 for float16 and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _per_channel(parameter: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Shapes a (C,) or (1,) parameter so that it broadcasts against x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return parameter.reshape(shape)


def _per_group(values: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Shapes a (G,) parameter so that it broadcasts against x, whose channels G divides."""
    if values.numel() > 1:
        values = values.repeat_interleave(x.size(channel_dim) // values.numel())
    return _per_channel(values, x, channel_dim)


def _group_sum(term: Tensor, groups: int, channel_dim: int) -> Tensor:
    """Sums over everything but the group: (G,)."""
    if groups == 1:
        return term.sum().reshape(1)
    return term.movedim(channel_dim, 0).reshape(groups, -1).sum(1)


def _gather_points(points: Tensor, index: Tensor, channel_dim: int) -> Tensor:
    """points[group of c, index[..., c, ...]] for every element of index."""
    if points.size(0) == 1:
        return points[0][index]
    groups = torch.arange(points.size(0), device=index.device)
    return points[_per_group(groups, index, channel_dim).expand_as(index), index]


def _pwlu_pieces(
    x: Tensor, left_bound: Tensor, right_bound: Tensor, points: Tensor, channel_dim: int
):
    """Everything of Eq. 1 to 4 that both directions need, in the arithmetic dtype of x."""
    num_intervals = points.size(1) - 1
    width = right_bound - left_bound
    # Straight through: where the minimum acts, gradients still see width = right - left, so that
    # learning can open the bounds again. Elsewhere the bounds stay what they are to the bit.
    missing = (width.clamp(min=PWLU_MIN_WIDTH) - width).detach()
    width = width + missing
    left = _per_group(left_bound, x, channel_dim)
    right = _per_group(right_bound + missing, x, channel_dim)
    length = _per_group(width / num_intervals, x, channel_dim)  # d
    with torch.no_grad():
        # Eq. 2. Clamped before the conversion to integers, which NaN and inf do not survive.
        position = torch.nan_to_num(torch.floor((x - left) / length), nan=0.0)
        index = position.clamp(0, num_intervals - 1).long()
    edge = left + index * length  # Eq. 3
    y0 = _gather_points(points, index, channel_dim)
    y1 = _gather_points(points, index + 1, channel_dim)
    slope = (y1 - y0) / length  # Eq. 4
    return left, right, length, index, edge, y0, slope


def pwlu(
    x: Tensor,
    left_bound: Tensor,
    right_bound: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    points: Tensor,
    channel_dim: int = 1,
) -> Tensor:
    """Piecewise Linear Unit, Eq. 1 to 4 of Zhou et al., 2021. See :func:`mmact.ops.pwlu`.

    Differentiable by autograd in every argument, with the interval index treated as constant as in
    the paper's section 3.2 (where it is constant, this is the exact derivative).
    """
    dtype = opmath_dtype(x.dtype)
    value = x.to(dtype)
    parameters = [p.to(dtype) for p in (left_bound, right_bound, left_slope, right_slope, points)]
    left_bound, right_bound, left_slope, right_slope, points = parameters
    left, right, _, _, edge, y0, slope = _pwlu_pieces(
        value, left_bound, right_bound, points, channel_dim
    )
    first = _per_group(points[:, 0], value, channel_dim)
    last = _per_group(points[:, -1], value, channel_dim)
    below = (value - left) * _per_group(left_slope, value, channel_dim) + first
    above = (value - right) * _per_group(right_slope, value, channel_dim) + last
    inside = (value - edge) * slope + y0
    return torch.where(value < left, below, torch.where(value >= right, above, inside)).to(x.dtype)


def pwlu_bwd(
    grad: Tensor,
    x: Tensor,
    left_bound: Tensor,
    right_bound: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    points: Tensor,
    channel_dim: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`pwlu` as Table 1 of the paper prints them.

    Returns:
        Gradients of x, left_bound, right_bound, left_slope, right_slope and points.
    """
    dtype = opmath_dtype(x.dtype)
    value, gy = x.to(dtype), grad.to(dtype)
    lb, rb, ls, rs, ys = (
        p.detach().to(dtype) for p in (left_bound, right_bound, left_slope, right_slope, points)
    )
    left, right, length, index, edge, _, slope = _pwlu_pieces(value, lb, rb, ys, channel_dim)
    below, above = value < left, value >= right
    inside = ~(below | above)
    zero = torch.zeros((), dtype=dtype, device=x.device)
    left_k = _per_group(ls, value, channel_dim)
    right_k = _per_group(rs, value, channel_dim)

    def channel_sum(term: Tensor) -> Tensor:
        return _group_sum(term, lb.numel(), channel_dim)

    gx = gy * torch.where(below, left_k, torch.where(above, right_k, slope))
    width = right - left
    g_left = torch.where(below, -left_k, torch.where(inside, slope * (value - right) / width, zero))
    g_right = torch.where(
        above, -right_k, torch.where(inside, slope * (left - value) / width, zero)
    )
    ratio = (value - edge) / length
    g_points = []
    for k in range(ys.size(1)):
        term = torch.where(inside & (index == k), 1 - ratio, zero)
        term = torch.where(inside & (index == k - 1), ratio, term)
        if k == 0:
            term = torch.where(below, zero + 1, term)
        if k == ys.size(1) - 1:
            term = torch.where(above, zero + 1, term)
        g_points.append(channel_sum(gy * term))
    return (
        gx.to(x.dtype),
        channel_sum(gy * g_left).to(left_bound.dtype),
        channel_sum(gy * g_right).to(right_bound.dtype),
        channel_sum(torch.where(below, gy * (value - left), zero)).to(left_slope.dtype),
        channel_sum(torch.where(above, gy * (value - right), zero)).to(right_slope.dtype),
        torch.stack(g_points, 1).to(points.dtype),
    )


# Piecewise-linear ---------------------------------------------------------------------------------


def _segments(x: Tensor, breakpoints: Tensor, channel_dim: int) -> list[Tensor]:
    """For each segment, which elements of x are in it. NaN is in the first."""
    passed = [x >= _per_group(b, x, channel_dim) for b in breakpoints.to(x.dtype).unbind(1)]
    count = torch.stack(passed).sum(0)
    return [count == k for k in range(len(passed) + 1)]


def piecewise_linear(
    x: Tensor, breakpoints: Tensor, slopes: Tensor, offsets: Tensor, channel_dim: int = 1
) -> Tensor:
    """A piecewise-linear function from its table. See :func:`mmact.ops.piecewise_linear`."""
    dtype = opmath_dtype(x.dtype)
    value = x.to(dtype)
    y = torch.zeros_like(value)
    for k, inside in enumerate(_segments(value, breakpoints, channel_dim)):
        slope, offset = (
            _per_group(table[:, k].to(dtype), value, channel_dim) for table in (slopes, offsets)
        )
        y = torch.where(inside, slope * value + offset, y)
    return y.to(x.dtype)


def piecewise_linear_bwd(
    grad: Tensor, x: Tensor, breakpoints: Tensor, slopes: Tensor, channel_dim: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`piecewise_linear` for x, slopes and offsets (in the slopes' dtype)."""
    dtype = opmath_dtype(x.dtype)
    value, gy = x.to(dtype), grad.to(dtype)
    gx, zero = torch.zeros_like(value), torch.zeros((), dtype=dtype, device=x.device)
    g_slopes: list[Tensor] = []
    g_offsets: list[Tensor] = []
    for k, inside in enumerate(_segments(value, breakpoints, channel_dim)):
        gx = torch.where(inside, gy * _per_group(slopes[:, k].to(dtype), value, channel_dim), gx)
        for sums, term in ((g_slopes, gy * value), (g_offsets, gy)):
            sums.append(_group_sum(torch.where(inside, term, zero), slopes.size(0), channel_dim))
    return (
        gx.to(x.dtype),
        torch.stack(g_slopes, 1).to(slopes.dtype),
        torch.stack(g_offsets, 1).to(slopes.dtype),
    )


def arelu(x: Tensor, alpha: Tensor, beta: Tensor, residual: bool = True) -> Tensor:
    """AReLU as the sum of section 3.3: R(x) + L(x). See :func:`mmact.ops.arelu`."""
    dtype = opmath_dtype(x.dtype)
    value = x.to(dtype)
    above = value >= 0  # false for NaN, which belongs to the lower side
    attention = torch.where(
        above,
        beta.to(dtype).reshape(()).sigmoid(),
        alpha.to(dtype).reshape(()).clamp(*ARELU_CLAMP),
    )
    y = attention * value
    if residual:
        y = y + torch.where(above, value, 0)
    return y.to(x.dtype)


def arelu_bwd(
    grad: Tensor, x: Tensor, alpha: Tensor, beta: Tensor, residual: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`arelu` as section 3.4 prints them, C(alpha) where it prints alpha.

    Returns:
        Gradients of x, alpha and beta.
    """
    dtype = opmath_dtype(x.dtype)
    value, gy, a, b = (t.to(dtype) for t in (x, grad, alpha, beta))
    low, high = ARELU_CLAMP
    above, s, zero = value >= 0, b.sigmoid(), gy.new_zeros(())
    gx = gy * torch.where(above, s.reshape(()) + float(residual), a.reshape(()).clamp(low, high))
    below_sum, above_sum = (torch.where(side, gy * value, zero).sum() for side in (~above, above))
    learns = (low <= a) & (a <= high)
    return (
        gx.to(x.dtype),
        torch.where(learns, below_sum, zero).to(alpha.dtype),
        (s * (1 - s) * above_sum).to(beta.dtype),
    )


# Padé ---------------------------------------------------------------------------------------------


def _mix(h: Tensor) -> Tensor:
    """A bijection of 32-bit numbers (held in int64) whose output looks random."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return h ^ (h >> 16)


def pau_noise(x: Tensor, groups: int, channel_dim: int, seed: Tensor, row: int) -> Tensor:
    """The noise of Eq. 3 for one coefficient: uniform in [-1, 1), one number per element of x.

    It is a hash of the seed, of the coefficient and of the element's number, so that backward needs
    no copy of it. Elements are numbered in the order of their memory, the group varying fastest.
    After 2^32 elements the numbers repeat.

    Args:
        x: The input.
        groups: Number of sets of coefficients, G.
        channel_dim: Dimension of the channels.
        seed: int64, one element.
        row: Which coefficient: j for a_j, m + 1 + k for b_k.

    Returns:
        Tensor of x's shape, float64.
    """
    strides = torch.empty_like(x, device='meta').stride()
    place = torch.arange(x.numel(), device=x.device).as_strided(x.shape, strides)
    inner = x.numel()
    if groups > 1:
        inner = strides[channel_dim] * (x.size(channel_dim) // groups)
    group, position = place // inner % groups, place // (inner * groups) * inner + place % inner
    number = (position * groups + group) & 0xFFFFFFFF
    low, high = seed.reshape(()) & 0xFFFFFFFF, (seed.reshape(()) >> 32) & 0xFFFFFFFF
    key = (high + row * 0x9E3779B9) & 0xFFFFFFFF
    bits = _mix(_mix((number + low) & 0xFFFFFFFF) ^ key)
    return (bits >> 8).double() / 2**23 - 1


class _Pade:
    """P / Q of Eq. 2 and what its gradients need, for one input.

    Where abs(x) > 1 the ratio is written in z = 1 / x, so that no power of x overflows: with
    P = x^m p(z) and A = x^n a(z), it is x^(m - n) p / (z^n + abs(a)) up to signs.
    """

    def __init__(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        channel_dim: int,
        version: str,
        noise: float,
        seed: Tensor | None,
    ):
        groups = numerator.size(0)
        dtype = opmath_dtype(x.dtype)
        b = denominator if version == 'C' else F.pad(denominator, (1, 0))
        self.m, self.n = numerator.size(1) - 1, b.size(1) - 1
        self.x, self.version = x.to(dtype), version

        def factor(row: int) -> Tensor | float:
            if noise == 0:
                return 1.0
            if seed is None:
                raise ValueError('pau: noise needs a seed')
            return 1 + noise * pau_noise(x, groups, channel_dim, seed, row).to(dtype)

        rows = range(self.m + self.n + 2)
        self.factors = [factor(row) for row in rows]
        coefficients = [
            _per_group(c, self.x, channel_dim) * f
            for c, f in zip(
                torch.cat([numerator, b], 1).to(dtype).unbind(1), self.factors, strict=True
            )
        ]
        self.a, self.b = coefficients[: self.m + 1], coefficients[self.m + 1 :]

        self.far = self.x.abs() > 1
        near, self.big = torch.where(self.far, 1, self.x), torch.where(self.far, self.x, 1)
        self.near, self.z = near, 1 / self.big
        one = torch.ones_like(near)
        self.odd = odd = _plus_minus(self.big) if self.n % 2 else one  # x^n / abs(x)^n
        self.near_scale, self.near_sign = self._denominator(near, self.b, one, one)
        self.far_scale, self.far_sign = self._denominator(self.z, self.b[::-1], self.z**self.n, odd)

    def _denominator(self, t: Tensor, b: list[Tensor], power: Tensor, odd: Tensor):
        """1 / Q and d Q / d A for the polynomial b in t, with Q's constant times ``power``."""
        constant = (0.1 if self.version == 'C' else 1.0) * power
        if self.version == 'N':
            return 1 / (constant + _horner(b, t)), torch.ones_like(t)
        if self.version == 'A':
            total = _horner([_abs(c) for c in b], _abs(t))
            return odd / (_abs(constant) + total), torch.ones_like(t)
        inner = _horner(b, t)
        return odd / (_abs(constant) + _abs(inner)), _plus_minus(inner * odd)

    def _far_power(self, order: int) -> Tensor:
        return self.big**order if order > 0 else self.z**-order

    def over_q(self, j: int) -> Tensor:
        """x^j / Q."""
        far = self._far_power(j - self.n) * self.far_scale
        return torch.where(self.far, far, self.near**j * self.near_scale)

    def value(self) -> Tensor:
        """P / Q."""
        near = _horner(self.a, self.near) * self.near_scale
        far = _horner(self.a[::-1], self.z) * self._far_power(self.m - self.n)
        return torch.where(self.far, far * self.far_scale, near)

    def value_over_q(self, k: int) -> Tensor:
        """x^k P / Q^2."""
        far = _horner(self.a[::-1], self.z) * self.far_scale * self.far_scale
        far = far * self._far_power(self.m + k - 2 * self.n)
        return torch.where(self.far, far, self.value() * self.over_q(k))

    def far_slope(self) -> Tensor:
        """dF / dx where abs(x) > 1: one power of x, so that infinities do not meet."""
        p = _horner(self.a[::-1], self.z)
        derived = _horner([j * a for j, a in enumerate(self.a)][::-1], self.z)  # x P' / x^m
        b, t = self.b, self.z
        if self.version == 'A':
            b, t = [_abs(c) for c in b], _abs(t)
        logarithmic = _horner([k * c for k, c in enumerate(b)][::-1], t)  # x A' / x^n
        ratio = self.far_sign * logarithmic * self.far_scale  # x Q' / Q
        if self.version == 'A':
            ratio = ratio * self.odd
        slope = derived - p * ratio
        power = self._far_power(self.m - self.n - 1)
        return torch.where(slope == 0, slope, slope * self.far_scale * power)

    def sign(self) -> Tensor:
        """d Q / d A."""
        return torch.where(self.far, self.far_sign, self.near_sign)


def _plus_minus(x: Tensor) -> Tensor:
    """The sign, that of 0 being +1."""
    return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))


def _abs(x: Tensor) -> Tensor:
    """The magnitude, with the derivative +1 at 0."""
    return _plus_minus(x) * x


def _horner(coefficients: list[Tensor], x: Tensor) -> Tensor:
    *rest, highest = coefficients
    total = highest * torch.ones_like(x)  # which a NaN leaves as it is
    for c in reversed(rest):
        total = total * x + c
    return total


def pau(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    channel_dim: int = 1,
    version: str = 'B',
    noise: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Padé Activation Unit, Eq. 2 and 3 of Molina et al., 2020. See :func:`mmact.ops.pau`."""
    return _Pade(x, numerator, denominator, channel_dim, version, noise, seed).value().to(x.dtype)


def pau_bwd(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    channel_dim: int = 1,
    version: str = 'B',
    noise: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`pau` for x, numerator and denominator, from section 2.2.

    With w_j = x^j / Q and F = P / Q they are: dF/da_j = w_j, dF/db_k = -F sign(A) w_k, and
    dF/dx = sum j a_j w_(j-1) - F sign(A) sum k b_k w_(k-1).
    """
    groups = numerator.size(0)
    f = _Pade(x, numerator, denominator, channel_dim, version, noise, seed)
    gy, sign = grad.to(f.x.dtype), f.sign()
    g_a = [gy * f.over_q(j) for j in range(f.m + 1)]
    dx = sum(j * f.a[j] * f.over_q(j - 1) for j in range(1, f.m + 1)) + torch.zeros_like(gy)
    g_b = []
    for k in range(f.n + 1):
        # d Q / d b_k and d Q / d x by x^k; for version A both have a sign of each term's own.
        own = _plus_minus(f.b[k] * f.x**0) * _plus_minus(f.x) ** k if version == 'A' else sign
        g_b.append(-gy * own * f.value_over_q(k))
        if k > 0:
            dx = dx - own * k * f.b[k] * f.value_over_q(k - 1)
    dx = torch.where(f.far, f.far_slope(), dx)
    sums = [
        _group_sum(term * factor, groups, channel_dim)
        for term, factor in zip([*g_a, *g_b], f.factors, strict=True)
    ]
    first = f.m + 1 if version == 'C' else f.m + 2
    return (
        (gy * dx).to(x.dtype),
        torch.stack(sums[: f.m + 1], 1).to(numerator.dtype),
        torch.stack(sums[first:], 1).to(denominator.dtype)
        if len(sums) > first
        else denominator.new_zeros(denominator.shape),
    )


def _per_sample(coefficients: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Shapes (B, G), G being 1 or the number of channels, so that it broadcasts against x."""
    for dim in range(1, x.dim()):  # without sizes, which a tracer would remember
        if dim != channel_dim % x.dim():
            coefficients = coefficients.unsqueeze(dim)
    return coefficients


def dyrelu(
    x: Tensor, coefficients: Tensor, attention: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Eq. 1 of Chen et al., 2020, times the attention of Eq. 5. See :func:`mmact.ops.dyrelu`."""
    dtype = opmath_dtype(x.dtype)
    rows = [_per_sample(row, x, channel_dim) for row in coefficients.to(dtype).unbind(1)]
    count = len(rows) // 2
    wide = x.to(dtype)
    best = rows[0] * wide + rows[count]
    for slope, intercept in zip(rows[1:count], rows[count + 1 :], strict=True):
        value = slope * wide + intercept
        # Where several functions meet, the last one counts, for the gradient too.
        best = torch.where((value >= best) | value.isnan(), value, best)
    if attention is not None:
        best = best * attention.to(dtype)
    return best.to(x.dtype)


def dyrelu_bwd(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    attention: Tensor | None = None,
    channel_dim: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`dyrelu` for x, coefficients and attention."""
    dtype = opmath_dtype(x.dtype)
    wide, scaled = x.to(dtype), grad.to(dtype)
    if attention is not None:
        scaled = scaled * attention.to(dtype)
    rows = [_per_sample(row, x, channel_dim) for row in coefficients.to(dtype).unbind(1)]
    a, b = torch.stack(rows).chunk(2)
    values = a * wide + b  # (K, *x.shape)
    best, index = values[0], torch.zeros_like(x, dtype=torch.long)
    for k in range(1, len(values)):
        taken = (values[k] >= best) | values[k].isnan()
        best, index = torch.where(taken, values[k], best), index.masked_fill(taken, k)
    gx = scaled * a.expand_as(values).gather(0, index.unsqueeze(0)).squeeze(0)
    kept = (0, channel_dim) if coefficients.size(2) > 1 else (0,)
    dims = [dim for dim in range(x.dim()) if dim not in kept]
    sums = []
    for term in (scaled * wide, scaled):
        shares = (term.masked_fill(index != k, 0) for k in range(len(values)))
        sums += [share.sum(dims) if dims else share for share in shares]
    g_coefficients = torch.stack(sums, 1).reshape(coefficients.shape).to(coefficients.dtype)
    g_attention = None
    if attention is not None:
        g_attention = (grad.to(dtype) * best).sum(channel_dim, keepdim=True).to(attention.dtype)
    return gx.to(x.dtype), g_coefficients, g_attention


def dyrelu_squeeze(
    x: Tensor, weight: Tensor | None, channel_dim: int
) -> tuple[Tensor, Tensor | None]:
    """Averages over pixels, and pixels projected on a weight.

    See :func:`mmact.ops.dyrelu_squeeze`.
    """
    channel_dim %= x.dim()
    wide = x.to(opmath_dtype(x.dtype))
    pixels = [dim for dim in range(1, x.dim()) if dim != channel_dim]
    mean = wide.mean(pixels) if pixels else wide
    if weight is None:
        return mean, None
    shape = [-1 if dim == channel_dim else 1 for dim in range(x.dim())]
    return mean, (wide * weight.to(wide.dtype).reshape(shape)).sum(channel_dim, keepdim=True)


def dyrelu_squeeze_bwd(
    x: Tensor,
    grad_mean: Tensor,
    grad_logits: Tensor | None,
    weight: Tensor | None,
    channel_dim: int,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of :func:`dyrelu_squeeze` for x, in the arithmetic dtype, and for the weight.

    Without a weight, x matters for its shape only.
    """
    pixels = x.numel() // max(1, x.size(0) * x.size(channel_dim))
    gx = _per_sample(grad_mean / max(1, pixels), x, channel_dim).expand_as(x)
    if weight is None or grad_logits is None:
        return gx, None
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    gx = gx + grad_logits * weight.to(grad_logits.dtype).reshape(shape)
    others = [d for d in range(x.dim()) if d != channel_dim]
    return gx, (x.to(grad_logits.dtype) * grad_logits).sum(others).to(weight.dtype)


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    """ACON-C of Ma et al., 2021. See :func:`mmact.ops.acon`."""
    value = x.to(opmath_dtype(x.dtype))
    p1, p2, beta = (_per_group(p.to(value.dtype), x, channel_dim) for p in (p1, p2, beta))
    difference = p1 - p2
    # Infinities become the largest number where they would meet a 0.
    largest = torch.finfo(value.dtype).max
    bounded = value.clamp(-largest, largest)
    slope = p2 + difference * torch.sigmoid(beta * difference * bounded)
    return (torch.where(slope == 0, bounded, value) * slope).to(x.dtype)


def acon_bwd(
    grad: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1
) -> tuple[Tensor, ...]:
    """Gradients of :func:`acon`: those of x, p1, p2 and beta."""
    dtype, groups = opmath_dtype(x.dtype), p1.numel()
    value, gy = x.to(dtype), grad.to(dtype)
    first, second, switch = (
        _per_group(p.detach().to(dtype), x, channel_dim) for p in (p1, p2, beta)
    )
    difference = first - second
    largest = torch.finfo(dtype).max
    t = switch * difference * value.clamp(-largest, largest)
    gate, rest = torch.sigmoid(t), torch.sigmoid(-t)

    def product(value: Tensor, part: Tensor) -> Tensor:
        return torch.where(part == 0, 0, value * part)

    curved = product(value, gate * rest)
    inner = product(value, curved)
    gx = gy * (second + difference * (gate + switch * difference * curved))
    moved = switch * difference * inner
    terms = (product(value, gate) + moved, product(value, rest) - moved, difference**2 * inner)
    sums = (_group_sum(gy * term, groups, channel_dim) for term in terms)
    return gx.to(x.dtype), *(s.to(p.dtype) for s, p in zip(sums, (p1, p2, beta), strict=True))


def xielu(x: Tensor, raw_p: Tensor, raw_n: Tensor, beta: float, channel_dim: int = 1) -> Tensor:
    """xIELU of Huang and Schlag, 2024. See :func:`mmact.ops.xielu`."""
    value = x.to(opmath_dtype(x.dtype))
    alpha_p, excess = (
        _per_group(F.softplus(p.to(value.dtype)), x, channel_dim) for p in (raw_p, raw_n)
    )
    # Each half is 0 on the other's side. At 0 the derivative is that of the lower one, beta.
    above, below = F.relu(value), value.clamp(max=0)
    y = above * (alpha_p * above + beta)
    # Up to 0, elu is expm1, which ONNX does not have.
    return (y + ((beta + excess) * F.elu(below) - excess * below)).to(x.dtype)


def xielu_bwd(
    grad: Tensor, x: Tensor, raw_p: Tensor, raw_n: Tensor, beta: float, channel_dim: int = 1
) -> tuple[Tensor, ...]:
    """Gradients of :func:`xielu`: those of x, raw_p and raw_n."""
    dtype, groups = opmath_dtype(x.dtype), raw_p.numel()
    value, gy = x.to(dtype), grad.to(dtype)
    raws = [p.detach().to(dtype) for p in (raw_p, raw_n)]
    alpha_p, excess = (_per_group(F.softplus(p), x, channel_dim) for p in raws)
    below = value.clamp(max=0)
    bent = torch.expm1(below)
    gx = gy * (beta + torch.where(value > 0, 2 * alpha_p * value, (beta + excess) * bent))
    above = value > 0
    terms = (torch.where(above, gy * value**2, 0), torch.where(above, 0, gy * (bent - below)))
    found = (
        (_group_sum(term, groups, channel_dim) * torch.sigmoid(raw)).to(p.dtype)
        for term, raw, p in zip(terms, raws, (raw_p, raw_n), strict=True)
    )
    return gx.to(x.dtype), *found
