# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The LGG brain-MRI data set, normalisation by volume, and the Dice coefficient by patient.

Importing it registers ``mmact.LGGSegmentationDataset``, ``mmact.NormalizeVolume`` and
``mmact.DiceMetric``; needs MMSegmentation.
"""

from .dice import DiceMetric
from .lgg import LGGSegmentationDataset
from .volume import NormalizeVolume

__all__ = ['DiceMetric', 'LGGSegmentationDataset', 'NormalizeVolume']
