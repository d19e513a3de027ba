# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from projects.mini_datasets import make_coco

SIZE = (120, 168)


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory) -> Path:
    """Folder of a miniature COCO of 14 + 8 pictures of `SIZE`, with two crowds in each split."""
    return make_coco(tmp_path_factory.mktemp('data') / 'coco', 14, 8, SIZE, seed=3, quiet=True)
