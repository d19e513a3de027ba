# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks for pictures of 32 x 32 pixels that MMPretrain has for larger ones, or not at all.

Importing it registers them as backbones, ``mmact.CIFARVGG8`` and so on; needs MMPretrain.
"""

from .networks import (
    CIFARVGG8,
    CIFARDenseNet121,
    CIFARMobileNet,
    CIFARMobileNetV2,
    CIFARSEResNet18,
    CIFARShuffleNetV2,
    CIFARSqueezeNet,
)

__all__ = [
    'CIFARDenseNet121',
    'CIFARMobileNet',
    'CIFARMobileNetV2',
    'CIFARSEResNet18',
    'CIFARShuffleNetV2',
    'CIFARSqueezeNet',
    'CIFARVGG8',
]
