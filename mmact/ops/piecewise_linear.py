# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::piecewise_linear``: any piecewise-linear function, given its breakpoints.

What AReLU, APL, Mixture and the leaky functions evaluate: they make the slopes and offsets from
their own parameters, and autograd carries the gradients back to those.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import reference
from ._compat import register_autograd
from ._library import LIBRARY, check_dtype, check_groups, define, dense, once_differentiable
from ._transforms import gradients, use_reference


def _eager(x, breakpoints, slopes, offsets, channel_dim):
    return dense(x, reference.piecewise_linear(x, breakpoints, slopes, offsets, channel_dim))


def _eager_bwd(grad, x, breakpoints, slopes, channel_dim):
    gx, *rest = reference.piecewise_linear_bwd(grad, x, breakpoints, slopes, channel_dim)
    return (dense(x, gx), *rest)


def _fake(x, breakpoints, slopes, offsets, channel_dim):
    return torch.empty_like(x)


def _fake_bwd(grad, x, breakpoints, slopes, channel_dim):
    return torch.empty_like(x), slopes.new_empty(slopes.shape), slopes.new_empty(slopes.shape)


define(
    'piecewise_linear(Tensor x, Tensor breakpoints, Tensor slopes, Tensor offsets, '
    'int channel_dim) -> Tensor',
    _eager,
    _fake,
)
define(
    'piecewise_linear_bwd(Tensor grad, Tensor x, Tensor breakpoints, Tensor slopes, '
    'int channel_dim) -> (Tensor, Tensor, Tensor)',
    _eager_bwd,
    _fake_bwd,
)


def _setup_context(ctx, inputs, output):
    x, breakpoints, slopes, offsets, ctx.channel_dim = inputs
    # Backward needs nothing of the offsets but their dtype, unless it is differentiated again.
    ctx.save_for_backward(x, breakpoints, slopes, offsets)


def _backward(ctx, grad):
    *saved, offsets = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph
        function = functools.partial(reference.piecewise_linear, channel_dim=ctx.channel_dim)
        return (*gradients(function, ctx.saved_tensors, grad), None)
    gx, g_slopes, g_offsets = torch.ops.mmact.piecewise_linear_bwd(grad, *saved, ctx.channel_dim)
    return gx, None, g_slopes, g_offsets.to(offsets.dtype), None


register_autograd('mmact::piecewise_linear', _backward, setup_context=_setup_context, lib=LIBRARY)
once_differentiable('piecewise_linear')


def _by_pieces(
    x: Tensor, breakpoints: Tensor, slopes: Tensor, offsets: Tensor, channel_dim: int
) -> Tensor:
    """One piece after the other takes over where x has passed its breakpoint: what ONNX gets."""
    dtype, x_dtype = reference.opmath_dtype(x.dtype), x.dtype
    x = x.to(dtype)
    ends, slopes, offsets = (
        [reference._per_group(column, x, channel_dim) for column in table.to(dtype).unbind(1)]
        for table in (breakpoints, slopes, offsets)
    )
    y = slopes[0] * x + offsets[0]
    for end, slope, offset in zip(ends, slopes[1:], offsets[1:], strict=True):
        y = torch.where(x >= end, slope * x + offset, y)
    return y.to(x_dtype)


def piecewise_linear(
    x: Tensor, breakpoints: Tensor, slopes: Tensor, offsets: Tensor, channel_dim: int = 1
) -> Tensor:
    """``slopes[k] * x + offsets[k]``, where k is the number of breakpoints that are <= x.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        breakpoints: (G, S), S >= 1, ascending in each row; a set for each of G groups of
            neighbouring channels: 1 for all of x, the number of channels C, or a divisor of C.
        slopes: (G, S + 1).
        offsets: (G, S + 1).
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN gives NaN; an infinite x gives an infinity
        of the right sign, or NaN where the outer slope is 0.

        Differentiable in x, slopes and offsets. There is no gradient for the breakpoints: where the
        function is continuous they have none of their own, but act through the offsets.

    Raises:
        TypeError: If x has another dtype.
        ValueError: If the shapes of the parameters do not fit each other or x.
    """
    check_dtype('piecewise_linear', x)
    if breakpoints.dim() != 2 or 0 in breakpoints.shape:
        raise ValueError(
            f'piecewise_linear: breakpoints must have shape (G, S) with S >= 1, '
            f'got {tuple(breakpoints.shape)}'
        )
    groups, count = breakpoints.shape
    for name, value in (('slopes', slopes), ('offsets', offsets)):
        if value.shape != (groups, count + 1):
            raise ValueError(
                f'piecewise_linear: {name} must have shape ({groups}, {count + 1}) to go with '
                f'breakpoints of shape {tuple(breakpoints.shape)}, got {tuple(value.shape)}'
            )
    channel_dim = check_groups('piecewise_linear', x, groups, channel_dim)
    if torch.onnx.is_in_onnx_export():
        return _by_pieces(x, breakpoints, slopes, offsets, channel_dim)
    if use_reference():
        return reference.piecewise_linear(x, breakpoints, slopes, offsets, channel_dim)
    return torch.ops.mmact.piecewise_linear(x, breakpoints, slopes, offsets, channel_dim)
