# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The LGG Segmentation Dataset: brain MRI of 110 patients with masks of FLAIR abnormality."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from PIL import Image, UnidentifiedImageError

from mmact.registry import DATASETS

SPLITS = ('train', 'val', 'all')


@DATASETS.register_module()
class LGGSegmentationDataset(BaseSegDataset):
    """Kaggle's lgg-mri-segmentation, split by patients.

    The layout is that of the archive: ``kaggle_3m/PATIENT/PATIENT_N.tif``, an RGB picture of a
    slice before contrast agent, in FLAIR, and after contrast agent; ``PATIENT_N_mask.tif`` is 255
    in the lesion and 0 elsewhere. Slices are ordered by patient and N. A sample's ``patient`` is
    the name of its folder. Labels are 0 (background) and 1 (lesion).

    No patient is in both splits. By default the 10 validation patients are those of Buda et al.'s
    public implementation: ``random.Random(42).sample(patients, 10)`` from the sorted names, so the
    AReLU paper's, as far as it follows that implementation (appendix E).

    Args:
        split: 'train', 'val' or 'all'.
        val_patients: Number of validation patients, drawn by ``split_seed``, or their names;
            without effect if ``split`` is 'all'.
        split_seed: Seed of the draw; without effect if ``val_patients`` are names.
        data_prefix: ``img_path`` is the folder of patients, relative to ``data_root``; masks are
            beside the images.
        **kwargs: Other arguments of MMSegmentation's BaseSegDataset.

    Raises:
        ValueError: If ``split`` or ``val_patients`` is not as above, or a file is not a picture in
            TIFF, or the mask is not of its image's size.
        FileNotFoundError: If the folder, patients in it, or a mask is missing.
    """

    METAINFO = dict(classes=('background', 'lesion'), palette=[[0, 0, 0], [255, 60, 60]])

    def __init__(
        self,
        split: str = 'train',
        val_patients: int | Sequence[str] = 10,
        split_seed: int = 42,
        data_prefix: dict | None = None,
        **kwargs,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {", ".join(SPLITS)}, got {split!r}')
        self.split = split
        self.val_patients = val_patients
        self.split_seed = split_seed
        super().__init__(
            img_suffix='.tif',
            seg_map_suffix='_mask.tif',
            data_prefix=data_prefix or dict(img_path='kaggle_3m'),
            **kwargs,
        )

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Returns what LoadAnnotations replaces in a mask: 255 by class 1."""
        return {255: 1}

    def load_data_list(self) -> list[dict]:
        """Finds the slices of the split and checks that each is there, with its mask.

        Only the headers of the files are read.
        """
        root = Path(self.data_prefix['img_path'])
        if not root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
        folders = {p.name: p for p in sorted(root.glob('TCGA_*')) if p.is_dir()}
        if not folders:
            raise FileNotFoundError(
                f'{root} has no folders TCGA_*: data_prefix.img_path must be the folder kaggle_3m '
                'of the archive'
            )
        return [
            self._slice(path)
            for patient in self._patients(list(folders))
            for path in self._images(folders[patient])
        ]

    def prepare_data(self, idx: int) -> dict:
        """Runs the pipeline on a slice.

        Raises:
            OSError: If a file is damaged behind its header.
        """
        try:
            return super().prepare_data(idx)
        except OSError as error:
            path = self.get_data_info(idx)['img_path']
            raise OSError(f'{path} or its mask cannot be read: {error}') from error

    def _patients(self, names: list[str]) -> list[str]:
        if self.split == 'all':
            return names
        if isinstance(self.val_patients, int):
            if not 0 < self.val_patients < len(names):
                raise ValueError(
                    f'val_patients must leave patients for both splits: got {self.val_patients} of '
                    f'the {len(names)} patients in {self.data_prefix["img_path"]}'
                )
            chosen = random.Random(self.split_seed).sample(names, self.val_patients)
        else:
            chosen = list(self.val_patients)
            unknown = sorted(set(chosen) - set(names))
            if unknown:
                raise ValueError(
                    f'val_patients: no folder {unknown[0]} in {self.data_prefix["img_path"]}'
                    + (f' ({len(unknown)} names are unknown)' if len(unknown) > 1 else '')
                )
        return [name for name in names if (name in chosen) == (self.split == 'val')]

    def _images(self, folder: Path) -> list[Path]:
        numbers = {}
        for path in folder.glob('*.tif'):
            if path.name.endswith(self.seg_map_suffix):
                continue
            number = path.stem.removeprefix(f'{folder.name}_')
            if not number.isdecimal():
                raise ValueError(f'{path} is not named {folder.name}_NUMBER.tif')
            numbers[int(number)] = path
        if not numbers:
            raise FileNotFoundError(f'{folder} has no slices {folder.name}_NUMBER.tif')
        return [numbers[number] for number in sorted(numbers)]

    def _slice(self, path: Path) -> dict:
        mask = path.with_name(path.stem + self.seg_map_suffix)
        if not mask.is_file():
            raise FileNotFoundError(f'{path} has no mask {mask.name} beside it')
        sizes = [_size(path), _size(mask)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f'{mask} has {sizes[1][0]} x {sizes[1][1]} pixels, its image '
                f'{sizes[0][0]} x {sizes[0][1]}'
            )
        return dict(
            img_path=str(path),
            seg_map_path=str(mask),
            patient=path.parent.name,
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
        )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=['TIFF']) as picture:
            return picture.size
    except UnidentifiedImageError:
        raise ValueError(f'{path} is not a readable TIFF file: download it again') from None
