# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones and heads with an activation of its own at every call site."""

from . import backbones, heads, necks

__all__ = ['backbones', 'heads', 'necks']
