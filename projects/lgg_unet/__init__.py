# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets for MMSegmentation; the generator of miniature ones is `mmact.datasets.mini`."""

import importlib

# Imported when asked for: they need MMSegmentation and MMCV, the miniatures do not.
_HOMES = {'LGGSegmentationDataset': '.lgg', 'NormalizeVolume': '.volume'}

__all__ = ['LGGSegmentationDataset', 'NormalizeVolume']


def __getattr__(name: str) -> type:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
