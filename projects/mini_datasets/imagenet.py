# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature ImageNet-1K (ILSVRC 2012) in the layout that MMPretrain reads."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._io import Job, generate, write_image
from .canvas import Scene
from .scene import draw_scene


class Class(NamedTuple):
    """A class of the 1,000 that can be drawn."""

    folder: str  # its WordNet id
    label: int
    place: str
    thing: str | None  # None: the place itself


CLASSES = {
    'soccer ball': Class('n04254680', 805, 'park', 'sports ball'),
    'sports car': Class('n04285008', 817, 'street', 'car'),
    'street sign': Class('n06794110', 919, 'street', 'stop sign'),
    'traffic light': Class('n06874185', 920, 'street', 'traffic light'),
    'seashore': Class('n09428293', 978, 'beach', None),
}


def make_imagenet(
    root: str | os.PathLike,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write a miniature ImageNet: five of the 1,000 classes in turn, under their own labels.

    `root` is what MMPretrain calls `data/imagenet`: `train/WNID/WNID_N.JPEG`,
    `val/ILSVRC2012_val_N.JPEG`, and `meta/train.txt` and `meta/val.txt`, which say the labels.

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
    return generate(_write, 'imagenet', root, counts, size, seed, quiet)


def _write(job: Job, folder: Path, quiet: bool) -> None:
    classes = list(CLASSES.values())
    for split in ('train', 'val'):
        lines = []
        for i, rng in job.pictures(split, quiet):
            kind = classes[i % len(classes)]
            name = (
                f'{kind.folder}/{kind.folder}_{i + 1}.JPEG'
                if split == 'train'
                else f'ILSVRC2012_val_{i + 1:08d}.JPEG'
            )
            write_image(folder / split / name, _draw(rng, job.size, kind).image)
            lines.append(f'{name} {kind.label}\n')
        listing = folder / 'meta' / f'{split}.txt'
        listing.parent.mkdir(exist_ok=True)
        listing.write_text(''.join(lines))


def _draw(rng: np.random.Generator, size: tuple[int, int], kind: Class) -> Scene:
    """Draws scenes until one has the thing, which chance may leave out."""
    while True:
        scene = draw_scene(rng, size, [kind.place], [kind.thing] if kind.thing else [])
        if kind.thing is None or any(region.name == kind.thing for region in scene.regions):
            return scene
