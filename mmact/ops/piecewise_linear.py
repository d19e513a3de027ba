# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::piecewise_linear``: any piecewise-linear function, given its breakpoints.

What AReLU, APL, Mixture and the leaky functions evaluate: they make the slopes and offsets from
their own parameters, and autograd carries the gradients back to those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._arguments import dense_floats, parameters
from ._elementwise import call, define_elementwise
from ._library import check_groups
from .norm import Norm
from .reference._common import per_group


def _backward(
    grad: Tensor, x: Tensor, breakpoints: Tensor, slopes: Tensor, offsets: Tensor, channel_dim: int
):
    gx, g_slopes, g_offsets = reference.piecewise_linear_bwd(
        grad, x, breakpoints, slopes, channel_dim
    )
    return gx, g_slopes, g_offsets.to(offsets.dtype)


define_elementwise(
    'piecewise_linear',
    'Tensor breakpoints, Tensor slopes, Tensor offsets, int channel_dim',
    (2, 3),
    reference.piecewise_linear,
    _backward,
)


def _by_pieces(
    x: Tensor, breakpoints: Tensor, slopes: Tensor, offsets: Tensor, channel_dim: int
) -> Tensor:
    """One piece after the other takes over where x has passed its breakpoint: for ONNX."""
    dtype, x_dtype = reference.opmath_dtype(x.dtype), x.dtype
    x = x.to(dtype)
    ends, steepness, starts = (
        [per_group(column, x, channel_dim) for column in table.to(dtype).unbind(1)]
        for table in (breakpoints, slopes, offsets)
    )
    y = steepness[0] * x + starts[0]
    for end, slope, offset in zip(ends, steepness[1:], starts[1:], strict=True):
        y = torch.where(x >= end, slope * x + offset, y)
    return y.to(x_dtype)


def piecewise_linear(
    x: Tensor,
    breakpoints: Tensor,
    slopes: Tensor,
    offsets: Tensor,
    channel_dim: int = 1,
    norm: Norm | None = None,
) -> Tensor:
    """``slopes[k] * x + offsets[k]``, where k is the number of breakpoints that are <= x.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        breakpoints: (G, S), S >= 1, ascending in each row; a set for each of G groups of
            neighbouring channels: 1 for all of x, the number of channels C, or a divisor of C.
        slopes: (G, S + 1).
        offsets: (G, S + 1).
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN gives NaN; an infinite x gives an infinity
        of the right sign, or NaN where the outer slope is 0.

        Differentiable in x, slopes and offsets. There is no gradient for the breakpoints: where the
        function is continuous they have none of their own, but act through the offsets.

    Raises:
        TypeError: If x or a parameter has another dtype or is no dense tensor.
        ValueError: If the shapes of the parameters do not fit each other or x, or a parameter is on
            another device.
    """
    x = dense_floats('piecewise_linear', 'x', x)
    tables = dict(breakpoints=breakpoints, slopes=slopes, offsets=offsets)
    parameters('piecewise_linear', x, **tables)
    if breakpoints.dim() != 2 or not breakpoints.numel():
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
    tables_in_order = (breakpoints, slopes, offsets)
    return call(
        'piecewise_linear', x, *tables_in_order, channel_dim, norm=norm, exported=_by_pieces
    )
