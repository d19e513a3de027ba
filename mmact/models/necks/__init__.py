# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Necks whose activations are mmact's. Each needs the codebase whose neck it extends."""

from .._optional import register

register('DyHead', 'models.necks.dyhead', "MMDetection's DyHead", 'mmdet')
