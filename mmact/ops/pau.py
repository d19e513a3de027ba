# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::pau``: the Padé Activation Unit of Molina et al., ICLR 2020, and its randomized form.

Paper: Padé Activation Units: End-to-end Learning of Flexible Activation Functions in Deep Networks,
sections 2.1, 2.2 and 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._arguments import choice, dense_floats, number, parameters, refuse
from ._elementwise import call, define_elementwise
from ._library import check_groups
from .norm import Norm

#: Highest order of numerator and denominator.
MAX_ORDER = 32


def _forward(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    seed: Tensor | None,
    noise: float,
    version: str,
    channel_dim: int,
):
    return reference.pau(x, numerator, denominator, channel_dim, version, noise, seed)


def _backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    seed: Tensor | None,
    noise: float,
    version: str,
    channel_dim: int,
):
    return reference.pau_bwd(grad, x, numerator, denominator, channel_dim, version, noise, seed)


define_elementwise(
    'pau',
    'Tensor numerator, Tensor denominator, Tensor? seed, float noise, str version, int channel_dim',
    (1, 2),
    _forward,
    _backward,
)


def pau(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    channel_dim: int = 1,
    version: str = 'B',
    noise: float = 0.0,
    seed: Tensor | None = None,
    norm: Norm | None = None,
) -> Tensor:
    """Padé Activation Unit: the ratio P(x) / Q(x) of two polynomials, Eq. 2.

    P = a_0 + a_1 x + ... + a_m x^m, and Q is one of:

    - ``'B'``, the paper's safe PAU: 1 + abs(b_1 x + ... + b_n x^n);
    - ``'A'``: 1 + abs(b_1 x) + ... + abs(b_n x^n);
    - ``'C'``: 0.1 + abs(b_0 + b_1 x + ... + b_n x^n);
    - ``'N'``: 1 + b_1 x + ... + b_n x^n, which may have poles.

    The letters and formulas are those of the ``rational_activations`` package.

    Gradients are those of section 2.2, with sign(0) = +1: the paper writes z / abs(z) and leaves 0
    undefined. With 0 there, denominators that start at zero would never learn.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        numerator: a, (G, m + 1): a set for each of G groups of neighbouring channels: 1 for all of
            x, the number of channels C, or a divisor of C.
        denominator: b, (G, n); (G, n + 1) from b_0 on with version C. With n = 0 the function
            is the polynomial P (over a constant).
        channel_dim: Dimension of x that holds the channels. Ignored if G is 1.
        version: The denominator.
        noise: alpha of Eq. 3: each coefficient is multiplied, for every element of x, by a number
            drawn uniformly from [1 - alpha, 1 + alpha). In [0, 1].
        seed: int64 tensor of one element, on x's device, that decides the draw: the same seed gives
            the same noise on every device (elements count in the order of their memory). None draws
            a seed from PyTorch's generator of that device. Backward keeps nothing but the seed.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. Finite wherever the exact ratio is in range,
        however large x's powers are. NaN gives NaN; an infinite x gives the limit of the ratio
        (without kernels NaN, where the leading coefficient is exactly 0).

    Raises:
        TypeError: If x or a parameter has another dtype or is no dense tensor, or the seed is not
            int64.
        ValueError: If shapes or devices do not fit each other or x, an order exceeds ``MAX_ORDER``,
            or version or noise are not among those above.
    """
    x = dense_floats('pau', 'x', x)
    parameters('pau', x, numerator=numerator, denominator=denominator)
    version = choice('pau', 'version', version, ('A', 'B', 'C', 'N'))
    least = 1 if version == 'C' else 0
    for name, value, low in (('numerator', numerator, 1), ('denominator', denominator, least)):
        if value.dim() != 2 or value.size(0) == 0 or not low <= value.size(1) <= MAX_ORDER:
            raise ValueError(
                f'pau: {name} must have shape (G, K) with K from {low} to {MAX_ORDER}, '
                f'got {tuple(value.shape)}'
            )
    groups = numerator.size(0)
    if denominator.size(0) != groups:
        raise ValueError(
            f'pau: numerator and denominator must have as many rows, '
            f'got {groups} and {denominator.size(0)}'
        )
    noise = number('pau', 'noise', noise, 0, 1, wanted='in [0, 1]')
    channel_dim = check_groups('pau', x, groups, channel_dim)
    if noise == 0:
        seed = None
    elif seed is None:
        seed = torch.randint(2**62, (1,), device=x.device)
    elif not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.numel() != 1:
        refuse('pau', 'seed', 'an int64 tensor of one element', seed, TypeError)
    elif seed.device != x.device:
        raise ValueError(f'pau: seed is on {seed.device}, but x is on {x.device}')
    return call('pau', x, numerator, denominator, seed, noise, version, channel_dim, norm=norm)
