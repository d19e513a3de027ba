# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the references have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def opmath_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which arithmetic on ``dtype`` is done: float32 for float16 and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def per_channel(parameter: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Shapes a (C,) or (1,) parameter so that it broadcasts against x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return parameter.reshape(shape)


def per_group(values: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Shapes a (G,) parameter so that it broadcasts against x, whose channels G divides."""
    if values.numel() > 1:
        values = values.repeat_interleave(x.size(channel_dim) // values.numel())
    return per_channel(values, x, channel_dim)


def group_sum(term: Tensor, groups: int, channel_dim: int) -> Tensor:
    """Sums over everything but the group: (G,)."""
    if groups == 1:
        return term.sum().reshape(1)
    return term.movedim(channel_dim, 0).reshape(groups, -1).sum(1)
