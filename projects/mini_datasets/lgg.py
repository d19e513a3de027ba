# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature LGG Segmentation Dataset: brain MRI of patients with lower-grade glioma."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ._io import Job, generate, progress, whole, write_image

# Hospitals of the real patients, as TCGA's barcodes abbreviate them.
SITES = ('CS', 'DU', 'EZ', 'FG', 'HT')
MIN_SLICES = 3
# Grey values in the three channels: T1 before contrast agent, FLAIR, T1 after contrast agent.
SCALP = (185, 150, 200)
BONE = (25, 20, 25)
WHITE_MATTER = (130, 85, 135)
GREY_MATTER = (95, 105, 100)
VENTRICLE = (40, 25, 45)
LESION = (75, 165, 100)
RIM = (80, 155, 185)


def make_lgg(
    root: str | os.PathLike,
    num_patients: int = 12,
    num_slices: int = 16,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write a miniature of Kaggle's lgg-mri-segmentation: heads with one lesion each.

    `root` holds what the archive holds: `kaggle_3m/PATIENT/PATIENT_N.tif`, N counting a patient's
    slices from 1, RGB of the three sequences (T1 before contrast agent, FLAIR, T1 after it), and
    `PATIENT_N_mask.tif` with 0 and 255. The lesion is bright in FLAIR and shows in some
    neighbouring slices; the first and the last slice never have any of it. Patients differ in
    brightness, as scanners do, so that no grey value means lesion in all of them.

    Args:
        root: Folder to make; missing, empty, or the result of the same call.
        num_patients: Number of patients.
        num_slices: Number of slices of each patient, at least 3.
        size: Height and width of the slices, at least 32 pixels each.
        seed: Decides, with the other arguments, every byte written.
        quiet: Whether to show no progress.

    Returns:
        The absolute path of `root`.

    Raises:
        ValueError: If an argument is out of its range.
        FileExistsError: If `root` holds anything else; it is left untouched.
    """
    counts = {
        'num_patients': num_patients,
        'num_slices': whole('num_slices', num_slices, MIN_SLICES),
    }
    return generate(_write, 'lgg', root, counts, size, seed, quiet)


def _write(job: Job, folder: Path, quiet: bool) -> None:
    for i in progress(range(job.counts['num_patients']), quiet):
        rng = np.random.default_rng([job.seed, i])
        year, month, day = rng.integers((1995, 1, 1), (2010, 13, 29))
        patient = f'TCGA_{SITES[i % len(SITES)]}_{i + 1:04d}_{year}{month:02d}{day:02d}'
        slices = _draw_head(rng, job.counts['num_slices'], job.size)
        for n, (image, mask) in enumerate(slices, start=1):
            path = folder / 'kaggle_3m' / patient / f'{patient}_{n}.tif'
            write_image(path, image[..., ::-1])
            write_image(path.with_name(f'{path.stem}_mask.tif'), mask)


def _draw_head(
    rng: np.random.Generator, num_slices: int, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the slices of a head, from neck to crown, and the masks of its lesion.

    The head is an ellipsoid in coordinates that run from -1 to 1 in all three directions.
    """
    height, width = size
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing='ij')
    x, y = x / rng.uniform(0.66, 0.76), y / rng.uniform(0.84, 0.92)
    heights = np.linspace(-1, 1, num_slices)
    # One slice at least goes through the middle of the lesion.
    centre_z = rng.choice(heights[np.abs(heights) <= 0.5])
    angle = rng.uniform(0, 2 * np.pi)
    centre_x, centre_y = rng.uniform(0.3, 0.5) * np.array([np.cos(angle), np.sin(angle)])
    radii = rng.uniform(0.2, 0.38, 2)
    extent = rng.uniform(0.3, 0.49)
    lobes, phase = rng.integers(2, 6), rng.uniform(0, 2 * np.pi)
    ripples = rng.normal(0, 6, (8, 3)), rng.uniform(0, 2 * np.pi, 8)
    gain = rng.uniform(0.55, 1.15) * rng.uniform(0.85, 1.15, 3)

    for z in heights:
        # Distance from the middle in units of the head's radius at this height.
        distance = np.hypot(x, y) / np.sqrt(1 - (0.8 * z) ** 2)
        waves = sum(
            np.cos(a * x + b * y + c * z + shift) for (a, b, c), shift in zip(*ripples, strict=True)
        )
        ventricle = np.hypot((np.abs(x) - 0.14) / 0.1, (y + 0.05) / 0.3) + (z / 0.6) ** 2 < 1
        direction = np.arctan2(y - centre_y, x - centre_x)
        wobble = 1 + 0.12 * np.sin(lobes * direction + phase + 2 * z)
        across = np.hypot((x - centre_x) / radii[0], (y - centre_y) / radii[1]) / wobble
        from_lesion = np.hypot(across, (z - centre_z) / extent)
        lesion = (from_lesion < 1) & (distance < 0.8)

        image = np.zeros((height, width, 3))
        image[distance < 1] = SCALP
        image[distance < 0.92] = BONE
        brain = distance < 0.84
        image[brain] = GREY_MATTER
        image[brain & (distance + 0.05 * waves < 0.72)] = WHITE_MATTER
        image[brain & ventricle] = VENTRICLE
        image[lesion] = LESION
        image[lesion & (np.abs(from_lesion - 0.5) < 0.12)] = RIM
        image *= gain * (1 + 0.03 * waves[..., None])
        image = cv2.GaussianBlur(image, (0, 0), 0.006 * width + 0.2)
        image += rng.normal(0, 6, image.shape)
        yield np.clip(np.rint(image), 0, 255).astype(np.uint8), lesion.astype(np.uint8) * 255
