# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""AReLU and ELSA, sections 3.2 to 3.4."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import opmath_dtype

#: C of AReLU: the range of alpha that acts, and outside of which it has no gradient.
ARELU_CLAMP = (0.01, 0.99)


def arelu(x: Tensor, alpha: Tensor, beta: Tensor, residual: bool = True) -> Tensor:
    """AReLU as the sum of section 3.3: R(x) + L(x). See :func:`mmact.ops.arelu`."""
    dtype = opmath_dtype(x.dtype)
    value = x.to(dtype)
    above = value >= 0  # false for NaN, which belongs to the lower side
    attention = torch.where(
        above,
        beta.to(dtype).reshape(()).sigmoid(),
        alpha.to(dtype).reshape(()).clamp(*ARELU_CLAMP),
    )
    y = attention * value
    if residual:
        y = y + torch.where(above, value, 0)
    return y.to(x.dtype)


def arelu_bwd(
    grad: Tensor, x: Tensor, alpha: Tensor, beta: Tensor, residual: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`arelu` as section 3.4 prints them, C(alpha) where it prints alpha.

    Returns:
        Gradients of x, alpha and beta.
    """
    dtype = opmath_dtype(x.dtype)
    value, gy, a, b = (t.to(dtype) for t in (x, grad, alpha, beta))
    low, high = ARELU_CLAMP
    above, s, zero = value >= 0, b.sigmoid(), gy.new_zeros(())
    gx = gy * torch.where(above, s.reshape(()) + float(residual), a.reshape(()).clamp(low, high))
    below_sum, above_sum = (torch.where(side, gy * value, zero).sum() for side in (~above, above))
    learns = (low <= a) & (a <= high)
    return (
        gx.to(x.dtype),
        torch.where(learns, below_sum, zero).to(alpha.dtype),
        (s * (1 - s) * above_sum).to(beta.dtype),
    )
