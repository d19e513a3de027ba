# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature ImageNet as MMPretrain reads it."""

import cv2
import pytest

from projects.mini_datasets import make_imagenet
from projects.mini_datasets.imagenet import CLASSES

SIZE = (48, 64)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp('data') / 'imagenet', 12, 6, SIZE, quiet=True)


def test_files(root):
    for split, number in (('train', 12), ('val', 6)):
        lines = (root / f'meta/{split}.txt').read_text().splitlines()
        pictures = sorted((root / split).rglob('*.JPEG'))
        assert len(lines) == len(pictures) == number
        kinds = list(CLASSES.values())
        for i, line in enumerate(lines):
            name, label = line.split()
            assert int(label) == kinds[i % len(kinds)].label
            assert cv2.imread(str(root / split / name)).shape == (*SIZE, 3)
            if split == 'train':
                assert name.startswith(f'{kinds[i % len(kinds)].folder}/')


def test_mmpretrain_reads_it(root):
    pytest.importorskip('mmpretrain', reason='MMPretrain is not installed')
    from mmpretrain.datasets import ImageNet

    for split, number in (('train', 12), ('val', 6)):
        dataset = ImageNet(data_root=str(root), split=split)
        assert len(dataset) == number
        names = [dataset.CLASSES[dataset.get_data_info(i)['gt_label']] for i in range(5)]
        assert [name.split(',')[0] for name in names] == list(CLASSES)
