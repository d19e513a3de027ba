# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones and heads with an activation of its own at every call site, and conversion."""

from . import backbones, heads, necks
from .converted import Converted

__all__ = ['Converted', 'backbones', 'heads', 'necks']
