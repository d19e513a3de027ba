# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""SLAF: a polynomial with learned coefficients.

Paper: Goyal, Goyal, Lall, Learning Activation Functions: A new paradigm for understanding Neural
Networks, 2019 (arXiv 1906.09529).

Where the paper leaves a choice:

- The basis is that of the Taylor series, 1, x, x^2, ..., as the PAU paper (appendix A.2) has it.
- The authors' code draws the coefficients at random and normalises every power over the batch. Here
  the powers are as they are, as in the papers that compare with it, and the polynomial starts as
  the best approximation of ReLU, in the mean square, for an input that is normal with mean 0 and
  variance 1, as after a BatchNorm.
- A polynomial grows without bound: the PAU paper saw undefined values in training. Use it after a
  normalisation and with a low degree.
- The AReLU paper's SLAF has 2 coefficients (Table 1). That is degree 1, an affine function; its
  authors' program starts it as 1 + x: ``SLAF(degree=1, init=(1, 1))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import pau
from ..ops._arguments import integer, several
from ..ops.norm import Norm
from ..ops.pau import MAX_ORDER
from .base import Activation


def _relu_polynomial(degree: int) -> list[float]:
    """Coefficients of the polynomial nearest to ReLU under the standard normal distribution.

    ReLU's expansion in the probabilists' Hermite polynomials He_n, with He_n turned into powers by
    He_(n+1) = x He_n - n He_(n-1).
    """
    hermite = [[1.0], [0.0, 1.0]]
    for n in range(1, degree):
        longer = [0.0, *hermite[n]]
        for power, value in enumerate(hermite[n - 1]):
            longer[power] -= n * value
        hermite.append(longer)
    # E[ReLU(x) He_n(x)] / n!; for n >= 2 that is, by partial integration, the density at 0 times
    # He_(n-2)(0) / n!.
    density = 1 / math.sqrt(2 * math.pi)
    weights = [density, 0.5]
    weights += [density * hermite[n - 2][0] / math.factorial(n) for n in range(2, degree + 1)]
    result = [0.0] * (degree + 1)
    for weight, polynomial in zip(weights, hermite, strict=True):
        for power, value in enumerate(polynomial):
            result[power] += weight * value
    return result


class SLAF(Activation):
    """Self-learnable activation function: a polynomial with learned coefficients, per layer.

    Args:
        degree: Degree of the polynomial.
        init: Initial coefficients of 1, x, ..., x^degree; None for those nearest to ReLU.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept.

    Attributes:
        coefficients: Those of 1, x, ..., x^degree, (degree + 1,).

    Raises:
        ValueError: If degree is not an integer from 1 to ``MAX_ORDER`` - 1 of the rational op, or
            init has not degree + 1 finite numbers.
    """

    paper = (
        'Goyal, Goyal, Lall, Learning Activation Functions: A new paradigm for understanding '
        'Neural Networks,'
    )
    year = 2019
    parameter_count = (4, 'layer')
    elementwise_op = 'pau'

    def __init__(
        self, *, degree: int = 3, init: Sequence[float] | None = None, inplace: bool = False
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.degree = degree = integer(owner, 'degree', degree, 1, MAX_ORDER - 1)
        wanted = f'{degree + 1} finite numbers, for the powers 0 to {degree}'
        coefficients = (
            _relu_polynomial(degree)
            if init is None
            else several(owner, 'init', init, degree + 1, wanted)
        )
        self.coefficients = nn.Parameter(torch.tensor(coefficients))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, of any shape."""
        numerator = self.rows('coefficients')
        return pau(x, numerator, numerator.new_empty(1, 0), version='N', norm=norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'degree={self.degree}'
