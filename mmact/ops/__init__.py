# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Functional forms of the activations: CPU and CUDA kernels with an eager fallback."""

from . import reference
from ._library import has_kernel
from .acon import acon
from .arelu import arelu
from .cpab import cpab
from .dyrelu import dyrelu
from .dyrelu_squeeze import dyrelu_squeeze
from .pau import pau
from .piecewise_linear import piecewise_linear
from .pwlu import pwlu
from .xielu import xielu

from . import flops  # isort: skip - it names the ops, which are made by now

__all__ = [
    'acon',
    'arelu',
    'cpab',
    'dyrelu',
    'dyrelu_squeeze',
    'flops',
    'has_kernel',
    'pau',
    'piecewise_linear',
    'pwlu',
    'reference',
    'xielu',
]
