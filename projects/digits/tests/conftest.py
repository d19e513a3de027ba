# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
import gzip
from pathlib import Path

import numpy as np
import pytest


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, '>u4').tobytes()
    data = header + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


@pytest.fixture(scope='session')
def stripes(tmp_path_factory) -> str:
    """A folder laid out like MNIST: noise with a bright bar whose place is the class."""
    folder = tmp_path_factory.mktemp('stripes')
    rng = np.random.default_rng(0)
    for part, number in (('train', 300), ('t10k', 100)):
        labels = (np.arange(number) % 10).astype(np.uint8)
        images = rng.integers(0, 90, (number, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 7, 4:24] = 255
        write_idx(folder / f'{part}-images-idx3-ubyte.gz', images)
        write_idx(folder / f'{part}-labels-idx1-ubyte', labels)
    return str(folder)
