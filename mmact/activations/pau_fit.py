# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Least-squares fits of rational functions, for the initial coefficients of PAU."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..ops._arguments import choice, integer, positive, refuse, several

VERSIONS = ('A', 'B', 'C', 'N')
CONSTANT = {'A': 1.0, 'B': 1.0, 'C': 0.1, 'N': 1.0}  # what a denominator adds to its polynomial


def fit_pau(
    function: Callable[[Tensor], Tensor],
    m: int = 5,
    n: int = 4,
    version: str = 'B',
    interval: tuple[float, float] = (-3.0, 3.0),
    num_points: int = 1001,
) -> tuple[Tensor, Tensor]:
    """Least-squares coefficients of P(x) / Q(x) for any function of one variable.

    P(x) = a_0 + a_1 x + ... + a_m x^m, and Q is one of

    - ``'A'``: 1 + |b_1 x| + ... + |b_n x^n|
    - ``'B'``: 1 + |b_1 x + ... + b_n x^n| (Eq. 2 of the paper)
    - ``'C'``: 0.1 + |b_0 + b_1 x + ... + b_n x^n|
    - ``'N'``: 1 + b_1 x + ... + b_n x^n, which may have poles. Fits without a pole on
      ten times the interval are preferred, then those without one on the interval.

    The problem has many local minima. Levenberg-Marquardt runs from a fixed set of denominators on
    a coarse grid, then from the best few results on finer ones. Nothing is random: two calls
    differ by the rounding of the linear algebra at most.

    Args:
        function: Takes and returns a float64 tensor (num_points,), elementwise.
        m: Degree of the numerator, at least 1.
        n: Degree of the denominator, at least 1.
        version: Form of the denominator.
        interval: Ends of the interval, in units of x.
        num_points: Points of the uniform grid, both ends included.

    Returns:
        Numerator (m + 1,) and denominator (n,), with version 'C' (n + 1,): float64, on the CPU, in
        ascending powers of x. Signs without an effect (each b_k of 'A', all b_k of 'B' and 'C'
        together), those that make the b_k of 'A', or their polynomial at the interval's outer end,
        positive.

    Raises:
        ValueError: If an argument is out of range, or the function has a non-finite value or
            another shape than its input.
        TypeError: If function is not callable or does not return a tensor.
    """
    if not callable(function):
        raise TypeError(f'fit_pau: function must be callable, got {type(function).__name__}')
    m, n = check_form(m, n, version, 'fit_pau')
    x = _grid(interval, num_points, m, n)
    num_points = len(x)
    y = _values(function, x)
    # On [-1, 1], with values up to 1, powers and damping have one scale.
    width, height = x.abs().max(), y.abs().max()
    height = torch.where(height > 0, height, 1)
    t, y = x / width, y / height

    coarse = torch.linspace(0, num_points - 1, min(num_points, 121), dtype=x.dtype, device='cpu')
    coarse = coarse.round().long()
    starts = _start_denominators(n, version)
    fits = _levenberg_marquardt(starts, None, m, t[coarse], y[coarse], version, 60, 1e-6)
    for count, points in ((3, 1001), (1, num_points)):
        fits = torch.stack(_order(fits, m, t, y, version)[:count])
        if count > 1 or points > 1001:
            stride = max(1, num_points // points)
            fits = _levenberg_marquardt(
                fits[:, m + 1 :], fits[:, : m + 1], m, t[::stride], y[::stride], version, 100, 1e-10
            )
    numerator, denominator = _canonical(fits[0], m, version)

    first = 0 if version == 'C' else 1
    numerator = numerator * height / width ** torch.arange(m + 1, dtype=x.dtype, device='cpu')
    denominator = denominator / width ** torch.arange(first, n + 1, dtype=x.dtype, device='cpu')
    return numerator, denominator


def check_form(m: int, n: int, version: str, owner: str = 'PAU') -> tuple[int, int]:
    """Raises a ValueError for degrees or a version that there are not; returns the degrees."""
    choice(owner, 'version', version, VERSIONS)
    m, n = positive(owner, m=m, n=n)
    return m, n


def _grid(interval: tuple[float, float], num_points: int, m: int, n: int) -> Tensor:
    wanted = 'two finite ascending ends'
    left, right = several('fit_pau', 'interval', interval, 2, wanted)
    if left >= right:
        refuse('fit_pau', 'interval', wanted, interval)
    least = 4 * (m + n + 2)
    wanted = f'an integer of at least {least} for degrees m={m} and n={n}'
    num_points = integer('fit_pau', 'num_points', num_points, least, wanted=wanted)
    return torch.linspace(left, right, num_points, dtype=torch.float64, device='cpu')


def _values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        try:
            y = function(x.clone())
        except Exception as error:
            raise ValueError(f'fit_pau: function fails on a float64 tensor: {error}') from error
    if not isinstance(y, Tensor):
        raise TypeError(f'fit_pau: function must return a tensor, got {type(y).__name__}')
    if y.shape != x.shape:
        raise ValueError(
            f'fit_pau: function must be elementwise, but of {tuple(x.shape)} it made '
            f'{tuple(y.shape)}'
        )
    y = y.detach().to(device='cpu', dtype=x.dtype)
    finite = y.isfinite()
    if not finite.all():
        where = int((~finite).nonzero()[0])
        raise ValueError(
            f'fit_pau: function({x[where]:g}) is {y[where]:g}; choose an interval on which it is '
            'finite'
        )
    return y


def _powers(t: Tensor, first: int, last: int) -> Tensor:
    """(last - first + 1, N): t^first ... t^last."""
    rows = [torch.ones_like(t)]
    for _ in range(last):
        rows.append(rows[-1] * t)
    return torch.stack(rows[first:])


def _denominator(b: Tensor, t: Tensor, version: str) -> tuple[Tensor, Tensor]:
    """Q (S, N) of S denominators at N points, and its derivatives for b (S, K, N); sign(0) = 1."""
    if version == 'A':
        basis = _powers(t.abs(), 1, b.size(1))
        slope = torch.where(b < 0, -1.0, 1.0).to(b)
        return 1 + b.abs() @ basis, slope[:, :, None] * basis
    first = 0 if version == 'C' else 1
    basis = _powers(t, first, first + b.size(1) - 1)
    polynomial = b @ basis
    if version == 'N':
        return 1 + polynomial, basis.expand(b.size(0), -1, -1)
    slope = torch.where(polynomial < 0, -1.0, 1.0).to(b)
    return CONSTANT[version] + polynomial.abs(), slope[:, None] * basis


def _start_denominators(n: int, version: str) -> Tensor:
    """(S, K) denominators on [-1, 1] from which the fit starts."""
    rows = []
    for c in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
        even = [math.comb(n // 2, k // 2) * c ** (k // 2) * (k % 2 == 0) for k in range(1, n + 1)]
        rows.append(even if n > 1 else [c / 100])  # (1 + c t^2)^(n // 2)
        rows.append([c * (1 if k % 2 else 0.25) for k in range(1, n + 1)])  # steep at 0
    generator = torch.Generator('cpu').manual_seed(0)
    uniform = torch.rand(2, 12, n, generator=generator, dtype=torch.float64, device='cpu')
    random = 10 ** (3 * uniform[0] - 1)
    random = torch.where(uniform[1] < 0.5, -random, random)
    random[:6, 1::2] = random[:6, 1::2].abs()
    starts = torch.cat([torch.tensor(rows, dtype=torch.float64, device='cpu'), random])
    if version == 'C':
        constant = torch.full_like(starts[:, :1], 1 - CONSTANT['C'])
        starts = torch.cat([constant, starts], 1)
    return starts


def _best_numerators(b: Tensor, m: int, t: Tensor, y: Tensor, version: str) -> Tensor:
    """For given denominators the numerators (S, m + 1) are a linear least-squares problem."""
    quotient = _powers(t, 0, m) / _denominator(b, t, version)[0][:, None]
    targets = y.expand(b.size(0), -1)[..., None]
    return torch.linalg.lstsq(quotient.mT, targets).solution[..., 0]


def _triangle(
    coefficients: Tensor, m: int, t: Tensor, y: Tensor, version: str, chunk: int = 100_000
) -> Tensor:
    """R of the QR decomposition of [Jacobian, residual], (S, p + 1, p + 1).

    All that a step needs, of a size that does not depend on the number of points.
    """
    a, b = coefficients[:, : m + 1], coefficients[:, m + 1 :]
    triangle = coefficients.new_zeros(coefficients.size(0), 0, coefficients.size(1) + 1)
    for ts, ys in zip(t.split(chunk), y.split(chunk), strict=True):
        powers = _powers(ts, 0, m)
        q, dq = _denominator(b, ts, version)
        q = torch.where(q > 0, q, math.nan)  # no step beyond a pole (version N)
        value = a @ powers / q
        rows = [powers / q[:, None], -(value / q)[:, None] * dq, (value - ys)[:, None]]
        stacked = torch.cat([triangle, torch.cat(rows, 1).mT], 1)
        triangle = torch.linalg.qr(stacked, mode='r').R
    return triangle


def _levenberg_marquardt(
    b: Tensor,
    a: Tensor | None,
    m: int,
    t: Tensor,
    y: Tensor,
    version: str,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """Minimises the squared error from S starts at once; returns their coefficients (S, p)."""
    first_damping = 1e-6  # a is near a minimum
    if a is None:
        first_damping = 1e-2
        b = b[(_denominator(b, t, version)[0] > 0).all(1)]
        a = _best_numerators(b, m, t, y, version)
    x = torch.cat([a, b], 1)
    p = x.size(1)
    damping = torch.full_like(x[:, 0], first_damping)
    triangle = _triangle(x, m, t, y, version)
    cost = triangle[:, :, p].square().sum(1)
    still = 0
    for _ in range(iterations):
        jacobian, residual = triangle[:, :p, :p], triangle[:, :p, p]
        scale = jacobian.norm(dim=1).clamp_min(1e-12) * damping.sqrt()[:, None]
        system = torch.cat([jacobian, torch.diag_embed(scale)], 1)
        target = torch.cat([-residual, torch.zeros_like(residual)], 1)[..., None]
        proposed = x + torch.linalg.lstsq(system, target).solution[..., 0]
        new_triangle = _triangle(proposed, m, t, y, version)
        new_cost = new_triangle[:, :, p].square().sum(1)
        # Near the minimum costs are equal to rounding while coefficients still converge.
        better = new_cost <= cost * (1 + 1e-14)
        gain = torch.where(better, (cost - new_cost) / cost.clamp_min(1e-300), 0)
        moved = torch.where(better[:, None], (proposed - x).abs() / x.abs().amax(1)[:, None], 0)
        x = torch.where(better[:, None], proposed, x)
        triangle = torch.where(better[:, None, None], new_triangle, triangle)
        cost = torch.where(better, new_cost, cost)
        damping = torch.where(better, damping / 5, damping * 4).clamp(1e-15, 1e12)
        still = still + 1 if gain.max() < tolerance and moved.max() < tolerance else 0
        if still == 4:
            break
    return x


def _order(fits: Tensor, m: int, t: Tensor, y: Tensor, version: str) -> list[Tensor]:
    """Different fits, best first: without poles near or on the interval, then by their error."""
    error = torch.nan_to_num((evaluate_fits(fits, m, t, version) - y).square().sum(1), nan=math.inf)
    poles = torch.zeros_like(error)
    if version == 'N':
        for reach in (1, 10):
            near = torch.linspace(-reach, reach, 4001, dtype=t.dtype, device='cpu')
            poles += (_denominator(fits[:, m + 1 :], near, version)[0] <= 0).any(1)
    # Errors are told apart to 1 %, and not below rounding; among equals small b_k come first.
    level = error.clamp_min(1e-28 * len(t)).log().div(0.01).round()
    size = fits[:, m + 1 :].abs().amax(1)
    keys = zip(poles.tolist(), level.tolist(), size.tolist(), range(len(fits)), strict=True)
    chosen: dict[tuple[int, float], Tensor] = {}
    for pole, err, _, index in sorted(keys):
        chosen.setdefault((pole, err), fits[index])
    return list(chosen.values())


def evaluate_fits(fits: Tensor, m: int, t: Tensor, version: str) -> Tensor:
    """Values (S, N) of S fits at N points."""
    return fits[:, : m + 1] @ _powers(t, 0, m) / _denominator(fits[:, m + 1 :], t, version)[0]


def _canonical(fit: Tensor, m: int, version: str) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of a fit, with the signs that :func:`fit_pau` promises."""
    a, b = fit[: m + 1], fit[m + 1 :]
    if version == 'A':
        b = b.abs()
    elif version in 'BC' and b.sum() < 0:
        b = -b
    # The rest that rounding leaves of a coefficient that is 0.
    a, b = (torch.where(c.abs() > 1e-12 * c.abs().max().clamp_min(1), c, 0) for c in (a, b))
    return a, b
