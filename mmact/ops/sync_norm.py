# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Statistics of a batch that several processes share, for the norm in front of an op.

The processes add up their sums once in forward and once in backward, as torch.nn.SyncBatchNorm's
do. The op takes mean and var as constants; what x's gradient gets through them is added to it when
the sums of all processes are known.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .norm import Norm, keep, statistics


def shared_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    group: dist.ProcessGroup | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> tuple[Tensor, Norm]:
    """Returns what an op needs for a norm with the statistics of all processes' x.

    All processes of the group have to call it and its backward.

    Args:
        x: (B, C, ...), of this process; may be empty.
        weight: (C,).
        bias: (C,).
        eps: Added to the variance.
        residual: Added to the normalised x.
        group: The processes; None for all.
        running_mean: (C,), what BatchNorm keeps, or None.
        running_var: (C,), likewise.
        momentum: Weight of the new values in them.

    Returns:
        x, to be used once, by the op, in place of the argument; and the norm.
    """
    mean, var, count = _statistics(x.detach(), group)
    keep(running_mean, mean, momentum)
    keep(running_var, var * (count / (count - 1)), momentum)
    x, weight, bias = _Shared.apply(x, weight, bias, mean, var, count, eps, group)
    return x, Norm(mean, var, weight, bias, eps, residual, constant=True)


def _statistics(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of elements of each channel in all processes."""
    count, channels = x.numel() // x.size(1), x.size(1)
    mean, var = statistics(x)
    # In float64 the difference of squares costs no digits that float32 has.
    first = mean.double()
    sums = torch.cat([first, var.double() + first.square(), first.new_ones(1)])
    # An empty process has neither.
    sums = sums * count if count else torch.zeros_like(sums)
    dist.all_reduce(sums, group=group)
    total = sums[-1]
    first, second = sums[:channels] / total, sums[channels:-1] / total
    return first.to(mean.dtype), (second - first.square()).clamp(min=0).to(mean.dtype), total


class _Shared(torch.autograd.Function):
    """x, weight and bias as they are; backward completes the gradient of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        group: dist.ProcessGroup | None,
    ):
        ctx.eps, ctx.group = eps, group
        ctx.save_for_backward(x, weight, mean, var, count)
        return x.view_as(x), weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gx: Tensor, g_weight: Tensor, g_bias: Tensor):
        x, weight, mean, var, count = ctx.saved_tensors
        inv_std = (var.double() + ctx.eps).rsqrt()
        # Sums of the gradient gz of the normalised x, and of gz * (x - mean) / std.
        sums = torch.stack([g_bias, g_weight]).double()
        dist.all_reduce(sums, group=ctx.group)
        per_element = -sums * (weight.double() * inv_std) / count
        factor = per_element[1] * inv_std
        # Nobody else holds gx: the x that it belongs to has one use.
        torch.ops.mmact.add_centered_(gx, x, mean, factor, per_element[0])
        return gx, g_weight, g_bias, None, None, None, None, None
