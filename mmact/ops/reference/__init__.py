# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ops in plain PyTorch, written from the papers' equations and independent of the kernels.

They are what the kernels are tested against (in float64), and what runs where no kernel exists.
All of them work in any floating dtype and on any device; float16 and bfloat16 are computed in
float32.
"""

from ._common import opmath_dtype
from .acon import acon, acon_bwd
from .arelu import ARELU_CLAMP, arelu, arelu_bwd
from .dyrelu import dyrelu, dyrelu_bwd, dyrelu_squeeze, dyrelu_squeeze_bwd
from .pau import pau, pau_bwd, pau_noise
from .piecewise_linear import piecewise_linear, piecewise_linear_bwd
from .pwlu import PWLU_MIN_WIDTH, pwlu, pwlu_bwd
from .xielu import xielu, xielu_bwd

__all__ = [
    'ARELU_CLAMP',
    'PWLU_MIN_WIDTH',
    'acon',
    'acon_bwd',
    'arelu',
    'arelu_bwd',
    'dyrelu',
    'dyrelu_bwd',
    'dyrelu_squeeze',
    'dyrelu_squeeze_bwd',
    'opmath_dtype',
    'pau',
    'pau_bwd',
    'pau_noise',
    'piecewise_linear',
    'piecewise_linear_bwd',
    'pwlu',
    'pwlu_bwd',
    'xielu',
    'xielu_bwd',
]
