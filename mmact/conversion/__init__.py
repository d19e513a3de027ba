# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Learned activations in models that are there already."""

from .convert import convert
from .kinds import REPLACES
from .report import Kept, Replaced, Report

__all__ = ['REPLACES', 'Kept', 'Replaced', 'Report', 'convert']
