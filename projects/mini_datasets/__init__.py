# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature data sets, drawn, in the exact folders and files of the real ones.

They let the real configs run, and small models learn something, where the real pictures are not at
hand: only the data root and the sizes change. Needs NumPy and OpenCV only; MMEngine, if it is
there, shows the progress.

`scene` composes scenes out of `objects` on the `canvas`; a file per data set writes them in its
layout. `lgg` draws heads instead. Another layout is one more such file and its line in `MAKERS`.
"""

from .ade20k import make_ade20k
from .cityscapes import make_cityscapes
from .coco import make_coco
from .imagenet import make_imagenet
from .lgg import make_lgg

MAKERS = {
    'coco': make_coco,
    'ade20k': make_ade20k,
    'cityscapes': make_cityscapes,
    'lgg': make_lgg,
    'imagenet': make_imagenet,
}

__all__ = [
    'MAKERS',
    'make_ade20k',
    'make_cityscapes',
    'make_coco',
    'make_imagenet',
    'make_lgg',
]
