# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones and heads of OpenMMLab's codebases with an activation of its own at every call site."""

from . import backbones

__all__ = ['backbones']
