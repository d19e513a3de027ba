# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature ADE20K and Cityscapes as MMSegmentation reads them."""

import cv2
import numpy as np
import pytest

from projects.mini_datasets import ade20k, cityscapes, make_ade20k, make_cityscapes

SIZE = (64, 112)
# ADE20K's name of what is drawn, where it is not our own.
ADE_NAMES = {'stop sign': 'signboard', 'sports ball': 'ball'}
CITY_NAMES = {'stop sign': 'traffic sign', 'tree': 'vegetation', 'grass': 'terrain'}


@pytest.fixture(scope='module')
def ade_root(tmp_path_factory):
    return make_ade20k(tmp_path_factory.mktemp('data') / 'ade', 24, 5, SIZE, quiet=True)


@pytest.fixture(scope='module')
def city_root(tmp_path_factory):
    return make_cityscapes(tmp_path_factory.mktemp('data') / 'city', 12, 5, SIZE, quiet=True)


def _labels(paths):
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    assert all(labels.shape == SIZE and labels.dtype == np.uint8 for labels in maps)
    return set(np.unique(maps).tolist())


def test_ade20k_files(ade_root):
    for split, name, number in (('train', 'training', 24), ('val', 'validation', 5)):
        stems = [f'ADE_{split}_{i:08d}' for i in range(1, number + 1)]
        pictures = sorted((ade_root / 'images' / name).iterdir())
        maps = sorted((ade_root / 'annotations' / name).iterdir())
        assert [path.name for path in pictures] == [f'{stem}.jpg' for stem in stems]
        assert [path.name for path in maps] == [f'{stem}.png' for stem in stems]
        assert cv2.imread(str(pictures[0])).shape == (*SIZE, 3)
        assert _labels(maps) <= {0, *ade20k.LABELS.values()}
    assert _labels(sorted((ade_root / 'annotations' / 'training').iterdir())) == {
        0,
        *ade20k.LABELS.values(),
    }


def test_cityscapes_files(city_root):
    cities = {path.name for path in (city_root / 'gtFine' / 'train').iterdir()}
    assert cities == {'aachen', 'bochum'}
    pictures = sorted(city_root.rglob('*_leftImg8bit.png'))
    assert len(pictures) == 17
    assert str(pictures[0].relative_to(city_root)) == (
        'leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png'
    )
    maps = {}
    for kind in ('labelIds', 'labelTrainIds'):
        maps[kind] = [
            city_root
            / 'gtFine'
            / path.parent.relative_to(city_root / 'leftImg8bit')
            / path.name.replace('leftImg8bit', f'gtFine_{kind}')
            for path in pictures
        ]
        assert set(city_root.rglob(f'*_{kind}.png')) == set(maps[kind])
    found = {kind: _labels(paths) for kind, paths in maps.items()}
    assert found['labelIds'] == {label for label, _ in cityscapes.LABELS.values()}
    assert found['labelTrainIds'] == {0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 255}
    for paths in zip(maps['labelIds'], maps['labelTrainIds'], strict=True):
        ids, train_ids = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths)
        for label, train_id in cityscapes.LABELS.values():
            assert (train_ids[ids == label] == train_id).all()


def test_mmsegmentation_reads_ade20k(ade_root):
    pytest.importorskip('mmseg', reason='MMSegmentation is not installed')
    from mmseg.datasets import ADE20KDataset

    dataset = ADE20KDataset(
        data_root=str(ade_root),
        data_prefix={'img_path': 'images/training', 'seg_map_path': 'annotations/training'},
        pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'mmseg.LoadAnnotations'}],
    )
    assert len(dataset) == 24
    classes = dataset.metainfo['classes']
    for name, label in ade20k.LABELS.items():
        assert classes[label - 1] == ADE_NAMES.get(name, name)
    item = dataset[0]
    stored = cv2.imread(item['seg_map_path'], cv2.IMREAD_UNCHANGED)
    # 0 becomes 255, which is ignored, and classes count from 0.
    np.testing.assert_array_equal(item['gt_seg_map'], stored - np.uint8(1))


def test_mmsegmentation_reads_cityscapes(city_root):
    pytest.importorskip('mmseg', reason='MMSegmentation is not installed')
    from mmseg.datasets import CityscapesDataset

    dataset = CityscapesDataset(
        data_root=str(city_root),
        data_prefix={'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'},
        pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'mmseg.LoadAnnotations'}],
    )
    assert len(dataset) == 12
    classes = dataset.metainfo['classes']
    for name, (_, train_id) in cityscapes.LABELS.items():
        if train_id != 255:
            assert classes[train_id] == CITY_NAMES.get(name, name)
    for item in dataset:
        assert item['img'].shape[:2] == item['gt_seg_map'].shape == SIZE
