# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Piecewise-linear functions from their tables."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import group_sum, opmath_dtype, per_group


def _segments(x: Tensor, breakpoints: Tensor, channel_dim: int) -> list[Tensor]:
    """For each segment, which elements of x are in it. NaN is in the first."""
    passed = [x >= per_group(b, x, channel_dim) for b in breakpoints.to(x.dtype).unbind(1)]
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
            per_group(table[:, k].to(dtype), value, channel_dim) for table in (slopes, offsets)
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
        gx = torch.where(inside, gy * per_group(slopes[:, k].to(dtype), value, channel_dim), gx)
        for sums, term in ((g_slopes, gy * value), (g_offsets, gy)):
            sums.append(group_sum(torch.where(inside, term, zero), slopes.size(0), channel_dim))
    return (
        gx.to(x.dtype),
        torch.stack(g_slopes, 1).to(slopes.dtype),
        torch.stack(g_offsets, 1).to(slopes.dtype),
    )
