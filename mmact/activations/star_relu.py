# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""StarReLU: the square of ReLU with a learned scale and bias.

Paper: Yu, Si, Zhou, Luo, Zhou, Feng, Yan, Wang, MetaFormer Baselines for Vision, TPAMI 2024 (arXiv
2210.13452).

The initial values make the output of a standard normal input have mean 0 and variance 1:
E[ReLU(x)^2] = 1/2 and Var[ReLU(x)^2] = 5/4. Scale and bias are one number each for the layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import pau
from ..ops._arguments import number
from .base import Activation


class StarReLU(Activation):
    """StarReLU: ``scale * ReLU(x)^2 + bias``; scale and bias are learned, one each per layer.

    Args:
        scale: Initial scale; 2 / sqrt(5) by default.
        bias: Initial bias; -1 / sqrt(5) by default.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept. NaN gives NaN.

    Attributes:
        scale: (1,).
        bias: (1,).

    Raises:
        ValueError: If scale or bias is not a finite number.
    """

    paper = 'Yu, Si, Zhou, Luo, Zhou, Feng, Yan, Wang, MetaFormer Baselines for Vision, TPAMI'
    year = 2024
    parameter_count = (2, 'layer')

    def __init__(
        self,
        *,
        scale: float = 2 / math.sqrt(5),
        bias: float = -1 / math.sqrt(5),
        inplace: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.scale = nn.Parameter(torch.tensor([number(owner, 'scale', scale)]))
        self.bias = nn.Parameter(torch.tensor([number(owner, 'bias', bias)]))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x, of any shape."""
        # A polynomial of ReLU(x): the kernel of ratios keeps nothing but ReLU(x) for backward.
        numerator = torch.stack([self.bias, torch.zeros_like(self.bias), self.scale], 1)
        return pau(F.relu(x), numerator, numerator.new_empty(1, 0), version='N')
