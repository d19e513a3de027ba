# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Learnable and dynamic activation functions for OpenMMLab and plain PyTorch.

Importing mmact registers its activations and hooks with MMEngine's root registries where MMEngine
is installed. ``mmact.ops`` and ``mmact.activations`` need torch alone.
"""

import importlib.util

from . import activations, ops
from .activations import list_activations
from .conversion import convert, fuse
from .interop import register_with_transformers
from .version import __version__

if importlib.util.find_spec('mmengine') is not None:
    from .registry import register_all

    register_all()

__all__ = [
    '__version__',
    'activations',
    'convert',
    'fuse',
    'list_activations',
    'ops',
    'register_with_transformers',
]
