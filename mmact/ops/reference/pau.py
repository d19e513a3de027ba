# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Padé Activation Units, Eq. 1 to 3, and their noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import group_sum, opmath_dtype, per_group


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
            per_group(c, self.x, channel_dim) * f
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
        group_sum(term * factor, groups, channel_dim)
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
