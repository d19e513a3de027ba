# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""xIELU: the expanded integral of the exponential linear unit.

Paper: Huang, Schlag, Deriving Activation Functions Using Integration, 2024 (arXiv 2411.13010).

The gradient is a line with a learned slope above 0 and a shifted ELU with a learned scale below;
the function is its integral. Both are one number for the layer, kept positive by softplus, and
alpha_n above beta, so that the gradient becomes negative for some x < 0.

The authors' code bounds the argument of expm1 by -1e-6; here it is x itself, which is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops._arguments import number
from ..ops.norm import Norm
from ..ops.xielu import xielu
from .base import Activation


class XIELU(Activation):
    """xIELU: ``alpha_p x^2 + beta x``, below 0 ``alpha_n (exp(x) - 1 - x) + beta x``.

    alpha_p = softplus(raw_p) and alpha_n = beta + softplus(raw_n), where raw_p and raw_n are
    learned, one each per layer.

    Args:
        alpha_p: Initial alpha_p, > 0.
        alpha_n: Initial alpha_n, > beta.
        beta: Slope at 0; fixed.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept. NaN gives NaN.

    Attributes:
        alpha_p: raw_p, (1,). Named as in the authors' code.
        alpha_n: raw_n, (1,).

    Raises:
        ValueError: If an argument is out of range.
    """

    paper = 'Huang, Schlag, Deriving Activation Functions Using Integration,'
    year = 2024
    parameter_count = (2, 'layer')
    elementwise_op = 'xielu'

    def __init__(
        self,
        *,
        alpha_p: float = 0.8,
        alpha_n: float = 0.8,
        beta: float = 0.5,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.beta = beta = number(owner, 'beta', beta)
        alpha_p = number(owner, 'alpha_p', alpha_p, above=0)
        wanted = f'a finite number > beta={beta:g}'
        alpha_n = number(owner, 'alpha_n', alpha_n, above=beta, wanted=wanted)
        self.alpha_p = nn.Parameter(torch.tensor([_softplus_inverse(alpha_p)]))
        self.alpha_n = nn.Parameter(torch.tensor([_softplus_inverse(alpha_n - beta)]))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, of any shape."""
        return xielu(x, self.alpha_p, self.alpha_n, self.beta, norm=norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'beta={self.beta}'


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))
