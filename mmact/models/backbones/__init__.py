# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones that take ``act_cfg``. The ResNets need the codebase whose backbone they extend."""

from .._optional import register
from .mobilenet_v2 import MobileNetV2
from .mobilenet_v3 import MobileNetV3

register('ResNet', 'models.backbones.resnet', "MMDetection's ResNet", 'mmdet')
register('ResNetV1c', 'models.backbones.resnet_v1c', "MMSegmentation's ResNetV1c", 'mmseg')

__all__ = ['MobileNetV2', 'MobileNetV3']
