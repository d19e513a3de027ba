# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact::arelu``: AReLU and its attention ELSA, from Chen, Li and Xu, 2020.

Paper: AReLU: Attention-based Rectified Linear Unit, sections 3.2 to 3.4.
"""

from __future__ import annotations

from torch import Tensor

from . import reference
from ._arguments import dense_floats, flag, parameters
from ._elementwise import call, define_elementwise
from .norm import Norm

define_elementwise(
    'arelu',
    'Tensor alpha, Tensor beta, bool with_relu',
    (1, 2),
    reference.arelu,
    reference.arelu_bwd,
)


def arelu(
    x: Tensor, alpha: Tensor, beta: Tensor, residual: bool = True, norm: Norm | None = None
) -> Tensor:
    """Attention-based Rectified Linear Unit: ``C(alpha) * x`` below 0, else ``(1 + s(beta)) * x``.

    C clamps to [0.01, 0.99] and passes no gradient outside, s is the sigmoid. Forward reads x once
    and backward reads it once more, for the gradients of x, alpha and beta together.

    Args:
        x: Input of any shape, float16, bfloat16, float32 or float64.
        alpha: One number.
        beta: One number.
        residual: False for the attention alone (ELSA, section 3.2), which is added to ReLU
            to make AReLU: ``C(alpha) * x`` below 0, else ``s(beta) * x``.
        norm: What stands in front, and is done in the same pass.

    Returns:
        Tensor of x's shape, dtype and memory format. The gradient of x below 0 is C(alpha); section
        3.4 prints alpha, which differs where the clamp acts.

    Raises:
        TypeError: If x, alpha or beta has another dtype or is no dense tensor.
        ValueError: If alpha or beta is not one number, or on another device than x.
    """
    parameters('arelu', dense_floats('arelu', 'x', x), alpha=alpha, beta=beta)
    flag('arelu', 'residual', residual)
    for name, value in (('alpha', alpha), ('beta', beta)):
        if value.numel() != 1:
            raise ValueError(f'arelu: {name} must be one number, got shape {tuple(value.shape)}')
    return call('arelu', x, alpha, beta, residual, norm=norm)
