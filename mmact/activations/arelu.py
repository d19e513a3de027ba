# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""AReLU and ELSA: attention by sign, with two learned numbers per layer.

Paper: Chen, Li, Xu, AReLU: Attention-based Rectified Linear Unit, 2020 (arXiv 2006.13858), sections
3.2 to 3.4.

Where the paper leaves a choice, or errs:

- Section 3.4 prints the gradient of x below 0 as alpha. It is C(alpha), the derivative of section
  3.3's function; the two differ where the clamp acts.
- The clamp has no gradient outside [0.01, 0.99], as section 3.4 says: an alpha that an optimizer
  step has carried beyond stays there (the function keeps the slope at the clamp's end). So an
  initial alpha outside is refused: it would never learn.
- A weight decay pulls alpha to 0 and beta to sigmoid(0) = 1/2 (section 3.4 names the first);
  the constructor ``ActivationParamConstructor`` exempts both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._arguments import number
from ..ops.arelu import arelu
from ..ops.norm import Norm
from ..ops.reference import ARELU_CLAMP
from .base import Activation


class ELSA(Activation):
    """Element-wise sign-based attention: ``C(alpha) * x`` below 0, else ``s(beta) * x``.

    C clamps to [0.01, 0.99], s is the sigmoid (section 3.2). The attention alone, without the ReLU
    that :class:`AReLU` adds it to.

    Args:
        alpha: Initial alpha, in [0.01, 0.99].
        beta: Initial beta.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept.

    Attributes:
        alpha, beta: The parameters, (1,) each.

    Raises:
        ValueError: If alpha or beta is out of range.
    """

    _residual = False

    paper = 'Chen, Li, Xu, AReLU: Attention-based Rectified Linear Unit,'
    year = 2020
    parameter_count = (2, 'layer')
    elementwise_op = 'arelu'

    def __init__(self, *, alpha: float = 0.9, beta: float = 2.0, inplace: bool = False) -> None:
        super().__init__()
        owner, (low, high) = type(self).__name__, ARELU_CLAMP
        wanted = (
            f'in [{low}, {high}] (outside, the clamp of section 3.2 gives it no gradient, and it '
            f'would never learn)'
        )
        alpha = number(owner, 'alpha', alpha, low, high, wanted=wanted)
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.beta = nn.Parameter(torch.tensor([number(owner, 'beta', beta)]))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, of any shape."""
        return arelu(x, self.alpha, self.beta, residual=self._residual, norm=norm)


class AReLU(ELSA):
    """Attention-based Rectified Linear Unit (section 3.3): ReLU plus :class:`ELSA`.

    ``C(alpha) * x`` below 0, else ``(1 + s(beta)) * x``: positive elements are amplified, negative
    ones kept in part.

    Args:
        alpha: Initial alpha, in [0.01, 0.99]; 0.9 in the paper's experiments (section 4.1).
        beta: Initial beta; 2.0 in the paper's experiments.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape; dtype and memory format are kept.

    Attributes:
        alpha, beta: The parameters, (1,) each.

    Raises:
        ValueError: If alpha or beta is out of range.

    Example:
        >>> act = AReLU()
        >>> act(torch.tensor([-1.0, 1.0]))
        tensor([-0.9000,  1.8808], grad_fn=<...>)
    """

    _residual = True
