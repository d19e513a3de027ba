# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::dyrelu``: the largest of K linear functions whose coefficients depend on the sample.

Paper: Chen, Dai, Liu, Chen, Yuan, Liu, Dynamic ReLU, ECCV 2020, Eq. 1 and 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._arguments import dense_floats, integer, parameters
from ._elementwise import define_elementwise
from ._transforms import use_reference

#: Largest K that the kernels take; above it the eager form runs.
MAX_FUNCTIONS = 16


define_elementwise(
    'dyrelu',
    'Tensor coefficients, Tensor? attention, int channel_dim',
    (1, 2),
    reference.dyrelu,
    reference.dyrelu_bwd,
    norm=False,
)


def dyrelu(
    x: Tensor, coefficients: Tensor, attention: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Dynamic ReLU: ``attention * max_k(a_k * x + b_k)``, Eq. 1.

    The coefficients belong to a sample, and to a channel of it or to all of them; the hyper
    function that makes them of x is in :mod:`mmact.activations.dyrelu`. Forward reads x once;
    backward keeps no other tensor of x's size, reads x once and finds again which function was the
    largest.

    Args:
        x: (B, ..., C, ...): samples at dimension 0, channels at ``channel_dim``; float16, bfloat16,
            float32 or float64.
        coefficients: (B, 2 K, C), or (B, 2 K, 1) for all channels: K slopes a, then K intercepts b,
            as Eq. 2 orders them.
        attention: pi of Eq. 5, of x's shape but with one channel. It multiplies slopes and
            intercepts, which, being positive, it does by multiplying the largest value. None for 1.
        channel_dim: Dimension of x that holds the channels, not 0.

    Returns:
        Tensor of x's shape, dtype and memory format. Where several functions meet, the last one
        gives the gradient: with coefficients of ReLU it is PyTorch's at 0. NaN gives NaN; an
        infinite x does too if a slope is exactly 0.

        Differentiable in x, coefficients and attention.

    Raises:
        TypeError: If a tensor has another dtype or is not dense.
        ValueError: If shapes or devices do not fit each other or x, or channel_dim is 0 or not a
            dimension.
    """
    x = dense_floats('dyrelu', 'x', x)
    parameters('dyrelu', x, coefficients=coefficients)
    if attention is not None:
        parameters('dyrelu', x, attention=attention)
    channel_dim = integer('dyrelu', 'channel_dim', channel_dim)
    shape = tuple(x.shape)
    if not -x.dim() <= channel_dim < x.dim() or channel_dim % x.dim() == 0:
        raise ValueError(
            f'dyrelu: channel_dim={channel_dim} must be a dimension of x of shape {shape} other '
            f'than 0, which holds the samples'
        )
    channel_dim %= x.dim()
    channels = x.size(channel_dim)
    given = tuple(coefficients.shape)
    fits = len(given) == 3 and given[0] == x.size(0) and given[1] > 0 and given[1] % 2 == 0
    if not fits or given[2] not in (1, channels):
        raise ValueError(
            f'dyrelu: coefficients must have shape (B, 2 K, C) or (B, 2 K, 1) with B={x.size(0)} '
            f'and C={channels} to go with x of shape {shape} and '
            f'channel_dim={channel_dim}, got {given}'
        )
    if attention is not None:
        wanted = (*shape[:channel_dim], 1, *shape[channel_dim + 1 :])
        if attention.shape != wanted:
            raise ValueError(
                f'dyrelu: attention must have shape {wanted} to go with x of shape {shape}, '
                f'got {tuple(attention.shape)}'
            )
        # The kernels sum over pixels within a channel only.
        coefficients = coefficients.expand(-1, -1, channels)
    if given[1] > 2 * MAX_FUNCTIONS or use_reference():
        return reference.dyrelu(x, coefficients, attention, channel_dim)
    return torch.ops.mmact.dyrelu(x, coefficients, attention, channel_dim)
