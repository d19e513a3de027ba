# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Functional forms of the activations: CPU and CUDA kernels with an eager fallback."""

from . import reference
from ._library import has_kernel
from .pwlu import pwlu

__all__ = ['has_kernel', 'pwlu', 'reference']
