# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::acon``: ACON-C of Ma et al., CVPR 2021.

Paper: Activate or Not: Learning Customized Activation.
"""

from __future__ import annotations

from torch import Tensor

from . import reference
from ._arguments import dense_floats
from ._elementwise import call, define_elementwise
from ._library import check_groups, check_vectors
from .norm import Norm

define_elementwise(
    'acon',
    'Tensor p1, Tensor p2, Tensor beta, int channel_dim',
    (1, 2, 3),
    reference.acon,
    reference.acon_bwd,
)


def acon(
    x: Tensor,
    p1: Tensor,
    p2: Tensor,
    beta: Tensor,
    channel_dim: int = 1,
    norm: Norm | None = None,
) -> Tensor:
    """ACON-C: ``(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x``.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        p1: (G,): one for each of G groups of neighbouring channels: 1 for all of x, the number of
            channels C, or a divisor of C.
        p2: (G,).
        beta: (G,).
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. NaN gives NaN; an infinite x gives the limit,
        which is 0 where the line that the gate chooses is 0.

    Raises:
        TypeError: If a tensor has another dtype or is not dense.
        ValueError: If shapes or devices do not fit each other or x.
    """
    dense_floats('acon', 'x', x)
    groups = check_vectors('acon', x, p1=p1, p2=p2, beta=beta)
    channel_dim = check_groups('acon', x, groups, channel_dim)
    return call('acon', x, p1, p2, beta, channel_dim, norm=norm)
