# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature ADE20K in the layout of the scene parsing benchmark (ADEChallengeData2016)."""

import os
from pathlib import Path

from ._io import Job, generate, write_image
from .scene import draw_scene

# Labels of the 150 classes as stored in the files, where 0 is everything else (here: kites).
LABELS = {
    'building': 2,
    'sky': 3,
    'tree': 5,
    'road': 7,
    'grass': 10,
    'sidewalk': 12,
    'person': 13,
    'mountain': 17,
    'car': 21,
    'sea': 27,
    'stop sign': 44,
    'sand': 47,
    'pole': 94,
    'sports ball': 120,
    'traffic light': 137,
}
THINGS = ('person', 'car', 'sports ball', 'kite', 'stop sign', 'traffic light')
FOLDERS = {'train': 'training', 'val': 'validation'}


def make_ade20k(
    root: str | os.PathLike,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write a miniature ADE20K: parks, beaches and streets in 15 of the 150 classes and 'other'.

    `root` is what MMSegmentation calls `data/ade/ADEChallengeData2016`. Label pictures are 8 bit:
    0 is other, 1 to 150 are the classes.

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
    return generate(_write, 'ade20k', root, counts, size, seed, quiet)


def _write(job: Job, folder: Path, quiet: bool) -> None:
    for split, name in FOLDERS.items():
        for i, rng in job.pictures(split, quiet):
            scene = draw_scene(rng, job.size, ('park', 'beach', 'street'), THINGS)
            stem = f'ADE_{split}_{i + 1:08d}'
            write_image(folder / 'images' / name / f'{stem}.jpg', scene.image)
            write_image(
                folder / 'annotations' / name / f'{stem}.png', scene.label_map(LABELS, other=0)
            )
