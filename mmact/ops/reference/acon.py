# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""ACON-C."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import group_sum, opmath_dtype, per_group


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    """ACON-C of Ma et al., 2021. See :func:`mmact.ops.acon`."""
    value = x.to(opmath_dtype(x.dtype))
    p1, p2, beta = (per_group(p.to(value.dtype), x, channel_dim) for p in (p1, p2, beta))
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
        per_group(p.detach().to(dtype), x, channel_dim) for p in (p1, p2, beta)
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
    sums = (group_sum(gy * term, groups, channel_dim) for term in terms)
    return gx.to(x.dtype), *(s.to(p.dtype) for s, p in zip(sums, (p1, p2, beta), strict=True))
