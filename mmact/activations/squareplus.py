# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Squareplus: a smooth ReLU of algebraic operations.

Paper: Barron, Squareplus: A Softplus-Like Algebraic Rectifier, 2021 (arXiv 2112.11687).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops._arguments import number
from ..ops.reference import opmath_dtype
from .base import Activation

# Beyond this, in multiples of sqrt(b), the difference to ReLU is below 1e-18 sqrt(b), and squares
# of float32 would overflow at 1e19.
_FAR = 1e18


class Squareplus(Activation):
    """Squareplus: ``(x + sqrt(x^2 + b)) / 2``; it learns nothing.

    Args:
        b: Width of the curved part, > 0: the value at 0 is sqrt(b) / 2. 4 gives Softplus' curvature
            at 0.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept. NaN gives NaN, -inf 0 and inf
        inf.

    Raises:
        ValueError: If b is not a positive finite number.
    """

    paper = 'Barron, Squareplus: A Softplus-Like Algebraic Rectifier,'
    year = 2021

    def __init__(self, *, b: float = 4.0, inplace: bool = False) -> None:
        super().__init__()
        self.b = number(type(self).__name__, 'b', b, above=0)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x, of any shape."""
        value = x.to(opmath_dtype(x.dtype))
        root = math.sqrt(self.b)
        # max(x, 0) plus (sqrt(x^2 + b) - abs(x)) / 2, whose difference would cancel. In units of
        # sqrt(b). The derivative of maximum at 0 is 1/2, as Squareplus' is.
        distance = (value / root).abs().clamp(max=_FAR)
        rest = root / 2 / (torch.sqrt(distance.square() + 1) + distance)
        return (torch.maximum(value, value.new_zeros(())) + rest).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'b={self.b}'
