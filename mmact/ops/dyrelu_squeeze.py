# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::dyrelu_squeeze``: what Dynamic ReLU's hyper function and attention see of x.

Its gradient has the same value at every pixel of a channel (the average's), or is an outer product
(the attention's): it is added in place to the gradient that :func:`mmact.ops.dyrelu` has just made,
so that backward holds no second tensor of x's size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._arguments import dense_floats, integer, parameters
from ._compat import is_compiling, register_autograd
from ._library import LIBRARY, define
from ._transforms import use_reference


def _fake(x: Tensor, weight: Tensor | None, channel_dim: int):
    dtype = reference.opmath_dtype(x.dtype)
    mean = x.new_empty((x.size(0), x.size(channel_dim)), dtype=dtype)
    if weight is None:
        return mean, x.new_empty(0, dtype=dtype)
    sizes = list(x.shape)
    sizes[channel_dim] = 1
    return mean, x.new_empty(sizes, dtype=dtype)


def _fake_bwd(
    grad_x: Tensor,
    x: Tensor | None,
    grad_mean: Tensor,
    grad_logits: Tensor | None,
    weight: Tensor | None,
    channel_dim: int,
):
    if weight is None:
        return grad_x.new_empty(0, dtype=reference.opmath_dtype(grad_x.dtype))
    return torch.empty_like(weight)


def _eager_bwd(
    grad_x: Tensor,
    x: Tensor | None,
    grad_mean: Tensor,
    grad_logits: Tensor | None,
    weight: Tensor | None,
    channel_dim: int,
):
    gx, g_weight = reference.dyrelu_squeeze_bwd(
        grad_x if x is None else x, grad_mean, grad_logits, weight, channel_dim
    )
    grad_x.copy_(grad_x + gx)
    return gx.new_empty(0) if weight is None else g_weight


def _eager(x: Tensor, weight: Tensor | None, channel_dim: int):
    mean, logits = reference.dyrelu_squeeze(x, weight, channel_dim)
    return mean, mean.new_empty(0) if weight is None else logits


# Without a weight, the second result is empty.
define(
    'dyrelu_squeeze(Tensor x, Tensor? weight, int channel_dim) -> (Tensor, Tensor)', _eager, _fake
)
# Adds to grad_x. Returns the gradient of the weight, empty without one; only that needs x.
define(
    'dyrelu_squeeze_bwd_(Tensor(a!) grad_x, Tensor? x, Tensor grad_mean, Tensor? grad_logits, '
    'Tensor? weight, int channel_dim) -> Tensor',
    _eager_bwd,
    _fake_bwd,
)


def _setup_context(ctx: Any, inputs: tuple, output: Any):
    x, weight, ctx.channel_dim = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_mean: Tensor, grad_logits: Tensor):
    x, weight = ctx.saved_tensors
    gx, g_weight = reference.dyrelu_squeeze_bwd(x, grad_mean, grad_logits, weight, ctx.channel_dim)
    return gx.to(x.dtype), g_weight, None


# For compiled graphs, where the compiler sees to it that nothing is kept or written twice.
register_autograd('mmact::dyrelu_squeeze', _backward, setup_context=_setup_context, lib=LIBRARY)


class _InPlace(torch.autograd.Function):
    """The op, and x again: what is computed of that x hands its gradient to this backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, channel_dim: int):
        ctx.channel_dim = channel_dim
        ctx.save_for_backward(None if weight is None else x, weight)
        mean, logits = torch.ops.mmact.dyrelu_squeeze(x, weight, channel_dim)
        return x.view_as(x), mean, logits

    @staticmethod
    def backward(ctx: Any, gx: Tensor, grad_mean: Tensor, grad_logits: Tensor):
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            projected = None if weight is None else grad_logits
            added, g_weight = reference.dyrelu_squeeze_bwd(
                gx if x is None else x, grad_mean, projected, weight, ctx.channel_dim
            )
            return gx + added.to(gx.dtype), g_weight, None
        # Nobody else holds gx: the x that it belongs to has one use. Where that is a sum, and not
        # dyrelu, gx may be one number, expanded.
        if 0 in gx.stride():
            gx = gx.clone()
        g_weight = torch.ops.mmact.dyrelu_squeeze_bwd_(
            gx, x, grad_mean, None if weight is None else grad_logits, weight, ctx.channel_dim
        )
        return gx, None if weight is None else g_weight, None


def dyrelu_squeeze(
    x: Tensor, weight: Tensor | None = None, channel_dim: int = 1
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Averages each channel over its pixels and projects each pixel on a weight.

    Args:
        x: (B, ..., C, ...): samples at dimension 0, channels at ``channel_dim``; float16, bfloat16,
            float32 or float64.
        weight: (C,), of a 1x1 convolution to one channel without bias; None for none.
        channel_dim: Dimension of x that holds the channels, not 0.

    Returns:
        x, to be used once, by :func:`mmact.ops.dyrelu`, in place of the argument: its gradient is
        completed in place. The averages, (B, C), and the projections, of x's shape with one
        channel or None; both float32, or float64 if x is.

    Raises:
        TypeError: If x or weight has another dtype or is no dense tensor.
        ValueError: If channel_dim is 0 or not a dimension, or weight does not have C elements or is
            on another device.
    """
    x = dense_floats('dyrelu_squeeze', 'x', x)
    if weight is not None:
        parameters('dyrelu_squeeze', x, weight=weight)
    channel_dim = integer('dyrelu_squeeze', 'channel_dim', channel_dim)
    if not -x.dim() <= channel_dim < x.dim() or channel_dim % x.dim() == 0:
        raise ValueError(
            f'dyrelu_squeeze: channel_dim={channel_dim} must be a dimension of x of shape '
            f'{tuple(x.shape)} other than 0, which holds the samples'
        )
    channel_dim %= x.dim()
    if weight is not None and weight.shape != (x.size(channel_dim),):
        raise ValueError(
            f'dyrelu_squeeze: weight must have shape ({x.size(channel_dim)},) to go with x of '
            f'shape {tuple(x.shape)} and channel_dim={channel_dim}, got {tuple(weight.shape)}'
        )
    if use_reference():
        return x, *reference.dyrelu_squeeze(x, weight, channel_dim)
    plain = is_compiling() or torch.jit.is_tracing()
    if plain or not (torch.is_grad_enabled() and x.requires_grad):
        mean, logits = torch.ops.mmact.dyrelu_squeeze(x, weight, channel_dim)
    else:
        x, mean, logits = _InPlace.apply(x, weight, channel_dim)
    return x, mean, None if weight is None else logits
