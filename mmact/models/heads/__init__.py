# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Heads that take ``act_cfg``. Each needs the codebase whose head it extends."""

from .._optional import register

register(
    'InvertedResidualHeatmapHead',
    'models.heads.inverted_residual_heatmap_head',
    "MMPose's HeatmapHead",
    'mmpose.models.heads',  # which needs MMDetection
)
register(
    'LinearClsHead',
    'models.heads.linear_cls_head',
    "MMPretrain's LinearClsHead",
    'mmpretrain.models',
)
