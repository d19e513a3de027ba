# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Learned activations in models that are there already."""

from .convert import convert
from .fuse import fuse
from .kinds import REPLACES
from .report import Kept, Replaced, Report
from .simplify import CHEAP, fold_batch_norms, model_to_pwlu

__all__ = [
    'CHEAP',
    'REPLACES',
    'Kept',
    'Replaced',
    'Report',
    'convert',
    'fold_batch_norms',
    'fuse',
    'model_to_pwlu',
]
