# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::xielu``: the expanded integral of the exponential linear unit.

Paper: Huang, Schlag, Deriving Activation Functions Using Integration, 2024.
"""

from __future__ import annotations

from torch import Tensor

from . import reference
from ._arguments import dense_floats, number
from ._elementwise import call, define_elementwise
from ._library import check_groups, check_vectors
from .norm import Norm

define_elementwise(
    'xielu',
    'Tensor raw_p, Tensor raw_n, float beta, int channel_dim',
    (1, 2),
    reference.xielu,
    reference.xielu_bwd,
)


def xielu(
    x: Tensor,
    raw_p: Tensor,
    raw_n: Tensor,
    beta: float = 0.5,
    channel_dim: int = 1,
    norm: Norm | None = None,
) -> Tensor:
    """xIELU: ``alpha_p x^2 + beta x``, up to 0 ``alpha_n (exp(x) - 1 - x) + beta x``.

    alpha_p = softplus(raw_p) and alpha_n = beta + softplus(raw_n).

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        raw_p: (G,): one for each of G groups of neighbouring channels: 1 for all of x, the number
            of channels C, or a divisor of C.
        raw_n: (G,).
        beta: Slope at 0.
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN gives NaN.

    Raises:
        TypeError: If a tensor has another dtype or is not dense.
        ValueError: If shapes or devices do not fit each other or x.
    """
    dense_floats('xielu', 'x', x)
    beta = number('xielu', 'beta', beta)
    groups = check_vectors('xielu', x, raw_p=raw_p, raw_n=raw_n)
    channel_dim = check_groups('xielu', x, groups, channel_dim)
    return call('xielu', x, raw_p, raw_n, beta, channel_dim, norm=norm)
