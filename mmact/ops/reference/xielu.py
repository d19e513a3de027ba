# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""xIELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compat import expm1_to_0
from ._common import group_sum, opmath_dtype, per_group


def xielu(x: Tensor, raw_p: Tensor, raw_n: Tensor, beta: float, channel_dim: int = 1) -> Tensor:
    """xIELU of Huang and Schlag, 2024. See :func:`mmact.ops.xielu`."""
    value = x.to(opmath_dtype(x.dtype))
    alpha_p, excess = (
        per_group(F.softplus(p.to(value.dtype)), x, channel_dim) for p in (raw_p, raw_n)
    )
    # Each half is 0 on the other's side. At 0 the derivative is that of the lower one, beta.
    above, below = F.relu(value), value.clamp(max=0)
    y = above * (alpha_p * above + beta)
    return (y + ((beta + excess) * expm1_to_0(below) - excess * below)).to(x.dtype)


def xielu_bwd(
    grad: Tensor, x: Tensor, raw_p: Tensor, raw_n: Tensor, beta: float, channel_dim: int = 1
) -> tuple[Tensor, ...]:
    """Gradients of :func:`xielu`: those of x, raw_p and raw_n."""
    dtype, groups = opmath_dtype(x.dtype), raw_p.numel()
    value, gy = x.to(dtype), grad.to(dtype)
    raws = [p.detach().to(dtype) for p in (raw_p, raw_n)]
    alpha_p, excess = (per_group(F.softplus(p), x, channel_dim) for p in raws)
    below = value.clamp(max=0)
    bent = torch.expm1(below)
    gx = gy * (beta + torch.where(value > 0, 2 * alpha_p * value, (beta + excess) * bent))
    above = value > 0
    terms = (torch.where(above, gy * value**2, 0), torch.where(above, 0, gy * (bent - below)))
    found = (
        (group_sum(term, groups, channel_dim) * torch.sigmoid(raw)).to(p.dtype)
        for term, raw, p in zip(terms, raws, (raw_p, raw_n), strict=True)
    )
    return gx.to(x.dtype), *found
