# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mixture: a learned combination of the identity and ReLU, which the AReLU paper calls Comb.

Paper: Manessi, Rozza, Learning Combinations of Activation Functions, ICPR 2018.

Where the papers leave a choice:

- Manessi and Rozza learn affine combinations (weights that sum to 1) and convex ones (weights >= 0,
  too) of several sets of functions. The PAU paper's Mixture (appendix A.2) names {identity, ReLU}
  and one weight, the AReLU paper's Comb (Table 1) has one parameter. Both are the affine
  combination of those two, which has one free weight; it is the default here, and the convex one
  is an argument.
- For these two functions the affine combination is PReLU's function with one slope for the layer:
  x from 0 on, weight * x below. PReLU starts at 0.25, this at ReLU.
- A convex weight is the sigmoid of the parameter, so that no step can leave [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import piecewise_linear
from ..ops._arguments import choice
from ..ops.norm import Norm
from .base import Activation


class Mixture(Activation):
    """Learned combination of identity and ReLU, ``w * x + (1 - w) * max(0, x)``, w per layer.

    ``Comb``, the AReLU paper's name, is the same class.

    Args:
        hull: ``'affine'``: w is any number and starts at 0, as ReLU; ``'convex'``: w is the sigmoid
            of the parameter and starts at 1/2.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept.

    Attributes:
        weight: w, or with hull='convex' the number whose sigmoid is w; (1,).

    Raises:
        ValueError: If hull is not one of those.
    """

    paper = 'Manessi, Rozza, Learning Combinations of Activation Functions, ICPR'
    year = 2018
    parameter_count = (1, 'layer')
    elementwise_op = 'piecewise_linear'

    def __init__(self, *, hull: str = 'affine', inplace: bool = False) -> None:
        super().__init__()
        self.hull = choice(type(self).__name__, 'hull', hull, ('affine', 'convex'))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, of any shape."""
        w = self.weight.sigmoid() if self.hull == 'convex' else self.weight
        slopes = torch.stack([w, torch.ones_like(w)], 1)
        return piecewise_linear(x, w.new_zeros(1, 1), slopes, torch.zeros_like(slopes), norm=norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'hull={self.hull!r}'


#: The AReLU paper's name of :class:`Mixture`.
Comb = Mixture
