# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Dynamic ReLU, and its squeeze."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import opmath_dtype


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
