# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The LGG data set, its miniature, and normalisation by volume."""

import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

pytest.importorskip('mmseg')

from projects.lgg_unet import LGGSegmentationDataset, NormalizeVolume
from projects.mini_datasets import make_lgg

PATIENTS, SLICES, SIZE = 5, 11, (48, 40)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return make_lgg(
        tmp_path_factory.mktemp('data') / 'lgg', PATIENTS, SLICES, SIZE, seed=1, quiet=True
    )


@pytest.fixture
def copy(root, tmp_path) -> Path:
    return Path(shutil.copytree(root, tmp_path / 'lgg'))


def _dataset(root, **options) -> LGGSegmentationDataset:
    # Serialisation collects garbage, which takes longer than all else.
    options = {'val_patients': 2, 'serialize_data': False, **options}
    return LGGSegmentationDataset(data_root=str(root), **options)


def _patients(dataset) -> list[str]:
    return [dataset.get_data_info(i)['patient'] for i in range(len(dataset))]


def test_miniature_has_the_layout_and_one_lesion_each(root):
    folders = sorted((root / 'kaggle_3m').iterdir())
    assert len(folders) == PATIENTS
    brightness = []
    for folder in folders:
        site, number, date = folder.name.removeprefix('TCGA_').split('_')
        assert site.isalpha()
        assert (len(number), len(date)) == (4, 8)
        assert len(list(folder.iterdir())) == 2 * SLICES
        areas, inside, outside = [], [], []
        for n in range(1, SLICES + 1):
            image = cv2.imread(str(folder / f'{folder.name}_{n}.tif'), cv2.IMREAD_UNCHANGED)
            mask = cv2.imread(str(folder / f'{folder.name}_{n}_mask.tif'), cv2.IMREAD_UNCHANGED)
            assert (image.shape, mask.shape) == ((*SIZE, 3), SIZE)
            assert image.dtype == mask.dtype == np.uint8
            assert set(np.unique(mask)) <= {0, 255}
            areas.append((mask > 0).sum())
            flair = image[..., 1]
            inside += flair[mask > 0].tolist()
            outside += flair[(mask == 0) & (flair > 40)].tolist()
        # Neighbouring slices, not all, never the first or the last.
        shown = np.flatnonzero(areas)
        assert 0 < len(shown) < SLICES - 1
        assert (np.diff(shown) == 1).all()
        assert areas[0] == areas[-1] == 0
        assert np.mean(inside) > 1.2 * np.mean(outside)
        brightness.append(np.mean(inside))
    # No common threshold tells lesions.
    assert max(brightness) > 1.2 * min(brightness)


def test_splits_are_by_patient_and_deterministic(root):
    train, val, everyone = (_dataset(root, split=s) for s in ('train', 'val', 'all'))
    assert len(set(_patients(val))) == 2
    assert not set(_patients(train)) & set(_patients(val))
    assert sorted(_patients(train) + _patients(val)) == _patients(everyone)
    assert len(everyone) == PATIENTS * SLICES
    assert _patients(_dataset(root, split='val')) == _patients(val)
    seeds = {tuple(_patients(_dataset(root, split='val', split_seed=s))) for s in range(4)}
    assert len(seeds) > 1


def test_the_default_draw_is_the_public_implementations(root):
    names = sorted(p.name for p in (root / 'kaggle_3m').iterdir())
    random.seed(42)
    drawn = random.sample(names, k=2)
    assert set(_patients(_dataset(root, split='val'))) == set(drawn)


def test_patients_can_be_named(root):
    names = sorted(p.name for p in (root / 'kaggle_3m').iterdir())
    chosen = [names[3], names[0]]
    assert set(_patients(_dataset(root, split='val', val_patients=chosen))) == set(chosen)
    train = _dataset(root, split='train', val_patients=chosen)
    assert set(_patients(train)) == set(names) - set(chosen)


def test_slices_are_in_the_order_of_their_numbers(root):
    dataset = _dataset(root, split='all')
    paths = [Path(dataset.get_data_info(i)['img_path']) for i in range(SLICES)]
    assert [int(path.stem.rpartition('_')[2]) for path in paths] == list(range(1, SLICES + 1))


def test_mmsegmentation_loads_images_and_labels(root):
    init_default_scope('mmseg')
    dataset = DATASETS.build(
        dict(
            type='mmact.LGGSegmentationDataset',
            data_root=str(root),
            split='all',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
    )
    assert dataset.metainfo['classes'] == ('background', 'lesion')
    for i in range(len(dataset)):
        item = dataset[i]
        sample = item['data_samples']
        image = cv2.imread(sample.img_path, cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(sample.seg_map_path, cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(item['inputs'].permute(1, 2, 0), image)
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0], mask > 0)


def test_normalisation_is_that_of_the_volume(root):
    normalize = NormalizeVolume(percentiles=(10, 99))
    for folder in sorted((root / 'kaggle_3m').iterdir())[:2]:
        paths = [folder / f'{folder.name}_{n}.tif' for n in range(1, SLICES + 1)]
        volume = np.stack([cv2.imread(str(path)) for path in paths])
        ours = np.stack(
            [
                normalize(dict(img_path=str(path), img=image))['img']
                for path, image in zip(paths, volume, strict=True)
            ]
        )
        assert ours.dtype == np.float32
        # As the public implementation computes it: stretch the contrast, then standardise.
        low, high = np.percentile(volume, 10), np.percentile(volume, 99)
        stretched = (np.clip(volume, low, high) - low) / (high - low) * 255
        expected = (stretched - stretched.mean((0, 1, 2))) / stretched.std((0, 1, 2))
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        np.testing.assert_allclose(ours.mean((0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(ours.std((0, 1, 2)), 1, atol=1e-4)


def test_a_channel_without_contrast_is_zero(tmp_path):
    image = np.full((8, 8, 3), 7, np.uint8)
    image[..., 0] = np.arange(64).reshape(8, 8)
    cv2.imwrite(str(tmp_path / 'P_1.tif'), image)
    result = NormalizeVolume()(dict(img_path=str(tmp_path / 'P_1.tif'), img=image))['img']
    assert np.isfinite(result).all()
    assert not result[..., 1:].any()


def test_bad_percentiles():
    with pytest.raises(ValueError, match='percentiles must be'):
        NormalizeVolume(percentiles=(99, 10))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split='test'), "split must be one of train, val, all, got 'test'"),
        (dict(val_patients=5), 'got 5 of the 5 patients'),
        (dict(val_patients=0), 'got 0 of the 5 patients'),
        (dict(val_patients=['TCGA_XX_0000_19960101']), 'no folder TCGA_XX_0000_19960101'),
    ],
)
def test_bad_arguments(root, options, message):
    with pytest.raises(ValueError, match=message):
        _dataset(root, **options)


def test_missing_files_are_named(copy):
    with pytest.raises(FileNotFoundError, match='kaggle_3m') as info:
        _dataset(copy.parent)
    assert info.value.filename == str(copy.parent / 'kaggle_3m')
    with pytest.raises(FileNotFoundError, match='has no folders TCGA_'):
        _dataset(copy, data_prefix=dict(img_path=''))
    folder = next((copy / 'kaggle_3m').iterdir())
    (folder / f'{folder.name}_3_mask.tif').unlink()
    with pytest.raises(FileNotFoundError, match=f'{folder.name}_3.tif has no mask'):
        _dataset(copy, split='all')
    for path in folder.glob('*.tif'):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{folder.name} has no slices'):
        _dataset(copy, split='all')


def test_bad_files_are_named(copy):
    folder = next((copy / 'kaggle_3m').iterdir())
    mask = folder / f'{folder.name}_3_mask.tif'
    good = mask.read_bytes()
    mask.write_text('<html>Not found</html>')
    with pytest.raises(ValueError, match=f'{mask.name} is not a readable TIFF file'):
        _dataset(copy, split='all')
    cv2.imwrite(str(mask), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match='has 8 x 8 pixels, its image 40 x 48'):
        _dataset(copy, split='all')
    mask.write_bytes(good)
    (folder / 'notes.tif').write_bytes(good)
    with pytest.raises(ValueError, match=f'is not named {folder.name}_NUMBER.tif'):
        _dataset(copy, split='all')


def test_a_file_damaged_behind_its_header_is_named(copy):
    init_default_scope('mmseg')
    folder = min((copy / 'kaggle_3m').iterdir())
    mask = folder / f'{folder.name}_1_mask.tif'
    # Uncompressed, with the header in front of the pixels, as Kaggle's files are.
    import tifffile

    tifffile.imwrite(mask, np.zeros(SIZE, np.uint8))
    mask.write_bytes(mask.read_bytes()[: -SIZE[0] * SIZE[1] // 2])
    dataset = _dataset(copy, split='all', pipeline=[dict(type='mmseg.LoadAnnotations')])
    dataset[1]
    with pytest.raises(OSError, match=f'{folder.name}_1.tif or its mask cannot be read'):
        dataset[0]
