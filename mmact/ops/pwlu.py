# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::pwlu``: the Piecewise Linear Unit of Zhou et al., ICCV 2021.

Paper: Learning specialized activation functions with the Piecewise Linear Unit, sections 3.1, 3.2
and 4.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._arguments import dense_floats, flag, parameters
from ._elementwise import call, define_elementwise
from ._library import check_groups
from .norm import Norm
from .reference._common import per_group

# The inference form only calculates another way. The dispatcher leaves it out where it is False.
_COUNT = 6  # of the other arguments after x


def _forward(x: Tensor, *arguments):
    return reference.pwlu(x, *arguments[:_COUNT])


def _backward(grad: Tensor, x: Tensor, *arguments):
    return reference.pwlu_bwd(grad, x, *arguments[:_COUNT])


define_elementwise(
    'pwlu',
    'Tensor left_bound, Tensor right_bound, Tensor left_slope, Tensor right_slope, Tensor points, '
    'int channel_dim, bool inference=False',
    (1, 2, 3, 4, 5),
    _forward,
    _backward,
)


def _check(
    x: Tensor,
    left_bound: Tensor,
    right_bound: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    points: Tensor,
    channel_dim: int,
) -> int:
    """Raises on arguments that do not fit; returns channel_dim counted from the front."""
    scalars = dict(
        left_bound=left_bound,
        right_bound=right_bound,
        left_slope=left_slope,
        right_slope=right_slope,
    )
    parameters('pwlu', dense_floats('pwlu', 'x', x), **scalars, points=points)
    if points.dim() != 2 or points.size(1) < 2:
        raise ValueError(
            f'pwlu: points must have shape (G, N + 1) with N >= 1, got {tuple(points.shape)}'
        )
    channels = points.size(0)
    for name, value in scalars.items():
        if value.shape != (channels,):
            raise ValueError(
                f'pwlu: {name} must have shape ({channels},) to go with points of shape '
                f'{tuple(points.shape)}, got {tuple(value.shape)}'
            )
    return check_groups('pwlu', x, channels, channel_dim)


def _by_table(
    x: Tensor,
    left_bound: Tensor,
    right_bound: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    points: Tensor,
    channel_dim: int,
    inference: bool = True,
) -> Tensor:
    """Section 4.3 in PyTorch's operations, as few as there can be: what ONNX gets.

    Slopes and offsets depend on parameters alone, so that exporters and runtimes fold them. ONNX
    Runtime gathers elements of flat tables several times faster than along a dimension.
    """
    dtype, x_dtype = reference.opmath_dtype(x.dtype), x.dtype
    x = x.to(dtype)
    lb, rb, ls, rs, y = (
        p.double() for p in (left_bound, right_bound, left_slope, right_slope, points)
    )
    groups, n = y.size(0), y.size(1) - 1
    rb = torch.maximum(rb, lb + reference.PWLU_MIN_WIDTH)
    length = ((rb - lb) / n).unsqueeze(1)
    edges = lb.unsqueeze(1) + length * torch.arange(n, device=x.device)
    inner = (y[:, 1:] - y[:, :-1]) / length
    # The regions outside are segments too: the first and the last.
    slopes = torch.cat([ls.unsqueeze(1), inner, rs.unsqueeze(1)], 1)
    below, above = y[:, 0] - ls * lb, y[:, -1] - rs * rb
    offsets = torch.cat([below.unsqueeze(1), y[:, :-1] - inner * edges, above.unsqueeze(1)], 1)
    origin = per_group((lb - length.squeeze(1)).to(dtype), x, channel_dim)
    per_unit = per_group((1 / length.squeeze(1)).to(dtype), x, channel_dim)
    index = ((x - origin) * per_unit).clamp(0, n + 1).long()
    if groups > 1:
        index = index + per_group(torch.arange(groups, device=x.device) * (n + 2), x, channel_dim)
    # Once more, for what NaN has become.
    index = index.clamp(0, groups * (n + 2) - 1).flatten()
    slope, offset = (t.to(dtype).flatten().gather(0, index) for t in (slopes, offsets))
    return (slope * x.flatten() + offset).reshape(x.shape).to(x_dtype)


def pwlu(
    x: Tensor,
    left_bound: Tensor,
    right_bound: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    points: Tensor,
    channel_dim: int = 1,
    inference: bool = False,
    norm: Norm | None = None,
) -> Tensor:
    """Piecewise Linear Unit, Eq. 1 to 4.

    ``[left_bound, right_bound]`` is cut into N intervals of equal length; the function passes
    through ``points`` at their N + 1 ends, is linear between them and goes on with ``left_slope``
    and ``right_slope`` outside. Gradients are those of Table 1, for all arguments.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        left_bound: B_L, (G,): one for each of G groups of neighbouring channels: G is 1 for all of
            x, the number of channels C, or a divisor of C.
        right_bound: B_R, (G,). Where it is less than ``reference.PWLU_MIN_WIDTH`` to the right of
            ``left_bound``, it acts as if it were that far (its gradient does not change).
        left_slope: K_L, (G,).
        right_slope: K_R, (G,).
        points: Y_P, (G, N + 1).
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        inference: Evaluate with the slope and offset tables of section 4.3, one multiply-add per
            element. Equal to the other form up to rounding; differentiable all the same.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN and infinite inputs give non-finite
        outputs (an infinite input beyond a bound with slope zero gives NaN, as Eq. 1 does).

    Raises:
        TypeError: If x or a parameter has another dtype or is no dense tensor.
        ValueError: If the shapes of the parameters do not fit each other or x, or a parameter is on
            another device.
    """
    channel_dim = _check(x, left_bound, right_bound, left_slope, right_slope, points, channel_dim)
    flag('pwlu', 'inference', inference)
    parameters = (left_bound, right_bound, left_slope, right_slope, points)
    settings = (channel_dim, inference)
    return call('pwlu', x, *parameters, *settings, norm=norm, exported=_by_table)
