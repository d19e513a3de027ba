# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones that take ``act_cfg``. Each needs the codebase whose backbone it extends."""

from importlib.util import find_spec

from ...registry import MODELS


def _needs_mmdet(*args, **kwargs):
    raise ImportError(
        "mmact.ResNet extends MMDetection's ResNet, and mmdet is not installed: "
        'pip install onedl-mmdetection (or mmdet)'
    )


if find_spec('mmdet') is not None:
    from . import resnet  # noqa: F401
else:
    MODELS.register_module(name='ResNet', module=_needs_mmdet)
