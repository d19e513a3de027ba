# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature Cityscapes with fine annotations."""

import os
from pathlib import Path

import numpy as np

from ._io import Job, generate, write_image
from .scene import draw_scene

# The drawn classes: id in *_labelIds.png and id in *_labelTrainIds.png, 255 being ignored.
LABELS = {
    'ego vehicle': (1, 255),
    'road': (7, 0),
    'sidewalk': (8, 1),
    'building': (11, 2),
    'pole': (17, 5),
    'traffic light': (19, 6),
    'stop sign': (20, 7),
    'tree': (21, 8),
    'grass': (22, 9),
    'sky': (23, 10),
    'person': (24, 11),
    'car': (26, 13),
}
THINGS = ('person', 'car', 'stop sign', 'traffic light')
CITIES = {'train': ('aachen', 'bochum'), 'val': ('frankfurt',)}


def make_cityscapes(
    root: str | os.PathLike,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write a miniature Cityscapes: streets seen from a car, in 11 of the 19 classes.

    The bonnet of the car is the region that evaluation ignores.

    Args:
        root: Folder to make; missing, empty, or the result of the same call.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
        size: Height and width of the pictures, at least 32 pixels each.
        seed: Decides, with the other arguments, every byte written.
        quiet: Whether to show no progress.

    Returns:
        The absolute path of `root`.

    Raises:
        ValueError: If an argument is out of its range.
        FileExistsError: If `root` holds anything else; it is left untouched.
    """
    counts = {'num_train': num_train, 'num_val': num_val}
    return generate(_write, 'cityscapes', root, counts, size, seed, quiet)


def _write(job: Job, folder: Path, quiet: bool) -> None:
    train_ids = np.full(256, 255, np.uint8)
    for label, train_id in LABELS.values():
        train_ids[label] = train_id
    for split, cities in CITIES.items():
        for i, rng in job.pictures(split, quiet):
            scene = draw_scene(rng, job.size, ('street',), THINGS, crowd=i % 6 == 0, bonnet=True)
            city = cities[i % len(cities)]
            stem = f'{city}_{i:06d}_000019'
            write_image(
                folder / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png', scene.image
            )
            labels = scene.label_map({name: ids[0] for name, ids in LABELS.items()}, other=0)
            fine = folder / 'gtFine' / split / city
            write_image(fine / f'{stem}_gtFine_labelIds.png', labels)
            write_image(fine / f'{stem}_gtFine_labelTrainIds.png', train_ids[labels])
