# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Functions of PyTorch that ONNX does not have, of which the ops are made nevertheless.

While a model is exported to ONNX they are made of operators that it has, which gives the same up to
rounding. They work on rows: (G, n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def searchsorted(edges: Tensor, value: Tensor, right: bool = False) -> Tensor:
    """``torch.searchsorted``."""
    if not torch.onnx.is_in_onnx_export():
        return torch.searchsorted(edges, value, right=right)
    index = torch.zeros_like(value, dtype=torch.long)
    for edge in edges.unsqueeze(2).unbind(1):
        index = index + (edge <= value if right else edge < value).long()
    return index


def cummax(rows: Tensor) -> Tensor:
    """The largest value up to each place."""
    if not torch.onnx.is_in_onnx_export():
        return rows.cummax(1).values
    largest = [rows[:, 0]]
    for column in rows.unbind(1)[1:]:
        largest.append(torch.maximum(largest[-1], column))
    return torch.stack(largest, 1)


def sort(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in ascending order, and where its elements were; of equals, the first one first."""
    if not torch.onnx.is_in_onnx_export():
        return rows.sort(dim=1, stable=True)
    return rows.topk(rows.size(1), 1, largest=False)  # ONNX, unlike PyTorch, keeps equals in order


def ndtr(x: Tensor) -> Tensor:
    """``torch.special.ndtr``, the normal distribution function."""
    if not torch.onnx.is_in_onnx_export():
        return torch.special.ndtr(x)
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def expm1(x: Tensor) -> Tensor:
    """``torch.expm1``."""
    return torch.exp(x) - 1 if torch.onnx.is_in_onnx_export() else torch.expm1(x)


def expm1_ratio(z: Tensor) -> Tensor:
    """``expm1(z) / z`` by Kahan's method: what rounding does to exp cancels in the quotient."""
    grown = torch.exp(z)
    still = grown == 1
    return torch.where(still, 1, (grown - 1) / torch.where(still, 1, grown.log()))


def log1p_ratio(z: Tensor) -> Tensor:
    """``log1p(z) / z`` by Kahan's method: what rounding does to 1 + z cancels in the quotient."""
    above = 1 + z
    still = above == 1
    return torch.where(still, 1, above.log() / torch.where(still, 1, above - 1))


def diff(rows: Tensor) -> Tensor:
    """``rows.diff(dim=1)``."""
    return rows[:, 1:] - rows[:, :-1]
