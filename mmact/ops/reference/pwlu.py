# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PWLU, Eq. 1 to 4 and Table 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import group_sum, opmath_dtype, per_group

#: Smallest effective width ``right_bound - left_bound`` of a PWLU. Bounds that learning brings
#: closer, or lets cross, act as if they were this far apart, measured from the left one.
PWLU_MIN_WIDTH = 1e-6


def _gather_points(points: Tensor, index: Tensor, channel_dim: int) -> Tensor:
    """points[group of c, index[..., c, ...]] for every element of index."""
    if points.size(0) == 1:
        return points[0][index]
    groups = torch.arange(points.size(0), device=index.device)
    return points[per_group(groups, index, channel_dim).expand_as(index), index]


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
    left = per_group(left_bound, x, channel_dim)
    right = per_group(right_bound + missing, x, channel_dim)
    length = per_group(width / num_intervals, x, channel_dim)  # d
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
    first = per_group(points[:, 0], value, channel_dim)
    last = per_group(points[:, -1], value, channel_dim)
    below = (value - left) * per_group(left_slope, value, channel_dim) + first
    above = (value - right) * per_group(right_slope, value, channel_dim) + last
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
    left_k = per_group(ls, value, channel_dim)
    right_k = per_group(rs, value, channel_dim)

    def channel_sum(term: Tensor) -> Tensor:
        return group_sum(term, lb.numel(), channel_dim)

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
