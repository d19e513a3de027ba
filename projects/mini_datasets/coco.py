# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature COCO 2017: boxes, masks, crowds, and key points and detected boxes of people."""

import os
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from ._io import Job, generate, write_image, write_json
from .canvas import Region, Scene
from .scene import draw_scene

THINGS = ('person', 'car', 'sports ball', 'kite', 'stop sign')

# The 80 classes in order of their ids, which leave out some numbers between 1 and 90.
_CLASSES = {
    'person': 'person',
    'vehicle': 'bicycle, car, motorcycle, airplane, bus, train, truck, boat',
    'outdoor': 'traffic light, fire hydrant, stop sign, parking meter, bench',
    'animal': 'bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe',
    'accessory': 'backpack, umbrella, handbag, tie, suitcase',
    'sports': 'frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, '
    'skateboard, surfboard, tennis racket',
    'kitchen': 'bottle, wine glass, cup, fork, knife, spoon, bowl',
    'food': 'banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake',
    'furniture': 'chair, couch, potted plant, bed, dining table, toilet',
    'electronic': 'tv, laptop, mouse, remote, keyboard, cell phone',
    'appliance': 'microwave, oven, toaster, sink, refrigerator',
    'indoor': 'book, clock, vase, scissors, teddy bear, hair drier, toothbrush',
}
_IDS = (i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORIES = [
    {'supercategory': group, 'id': next(_IDS), 'name': name}
    for group, names in _CLASSES.items()
    for name in names.split(', ')
]
CATEGORY_IDS = {category['name']: category['id'] for category in CATEGORIES}

KEYPOINTS = [
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
]
# Pairs of joints that are linked, counted from 1.
SKELETON = [
    [16, 14],
    [14, 12],
    [17, 15],
    [15, 13],
    [12, 13],
    [6, 12],
    [7, 13],
    [6, 7],
    [6, 8],
    [7, 9],
    [8, 10],
    [9, 11],
    [2, 3],
    [1, 2],
    [1, 3],
    [2, 4],
    [3, 5],
    [4, 6],
    [5, 7],
]


def make_coco(
    root: str | os.PathLike,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Write a miniature COCO 2017: people, cars, balls, kites and stop signs outdoors.

    All 80 categories are listed and 5 of them drawn. The masks are exactly the pixels that are
    seen. The first of every six pictures holds a crowd (`iscrowd=1`). Key points are the pixels of
    the joints drawn, with visibility 2 if seen, 1 if hidden by something and 0 (with x = y = 0) if
    out of the picture. The file of detected people has the true boxes, moved a little, and some
    false ones with low scores.

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
    return generate(_write, 'coco', root, counts, size, seed, quiet)


def _write(job: Job, folder: Path, quiet: bool) -> None:
    image_ids, annotation_ids = count(1), count(1)
    person = {**CATEGORIES[0], 'keypoints': KEYPOINTS, 'skeleton': SKELETON}
    for split in ('train', 'val'):
        images, annotations, detections = [], [], []
        for i, rng in job.pictures(split, quiet):
            scene = draw_scene(rng, job.size, ('park', 'beach', 'street'), THINGS, crowd=i % 6 == 0)
            image_id = next(image_ids)
            file_name = f'{image_id:012d}.jpg'
            write_image(folder / f'{split}2017' / file_name, scene.image)
            images.append(
                {
                    'license': 1,
                    'file_name': file_name,
                    'coco_url': '',
                    'height': job.size[0],
                    'width': job.size[1],
                    'date_captured': '2017-01-01 00:00:00',
                    'flickr_url': '',
                    'id': image_id,
                }
            )
            found = [
                annotate(scene, index, image_id, next(annotation_ids))
                for index, region in enumerate(scene.regions)
                if region.name in THINGS
            ]
            annotations += found
            detections += _detect(found, rng, job.size, image_id)
        header = {
            'info': {
                'description': 'Miniature COCO 2017, drawn by mmact',
                'year': 2017,
                'version': str(job.version),
                'contributor': 'mmact',
                'url': '',
                'date_created': '2017-01-01',
            },
            'licenses': [
                {
                    'url': 'https://www.apache.org/licenses/LICENSE-2.0',
                    'id': 1,
                    'name': 'Apache-2.0',
                }
            ],
            'images': images,
        }
        people = [annotation for annotation in annotations if annotation['category_id'] == 1]
        objects = [
            {key: value for key, value in annotation.items() if 'keypoints' not in key}
            for annotation in annotations
        ]
        for name, categories, content in (
            ('instances', CATEGORIES, objects),
            ('person_keypoints', [person], people),
        ):
            write_json(
                folder / 'annotations' / f'{name}_{split}2017.json',
                {**header, 'annotations': content, 'categories': categories},
            )
    write_json(
        folder / 'person_detection_results' / 'COCO_val2017_detections_AP_H_56_person.json',
        detections,
    )


def annotate(scene: Scene, index: int, image_id: int, annotation_id: int) -> dict:
    """Describe one region as COCO does, with the key points if it is a person."""
    region, mask = scene.regions[index], scene.mask(index)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    annotation = {
        'segmentation': run_lengths(mask) if region.crowd else polygons(mask),
        'area': float(mask.sum()),
        'iscrowd': int(region.crowd),
        'image_id': image_id,
        'bbox': [float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)],
        'category_id': CATEGORY_IDS[region.name],
        'id': annotation_id,
    }
    if region.name == 'person':
        joints = _keypoints(scene, index, region)
        annotation['num_keypoints'] = int((joints[:, 2] > 0).sum())
        annotation['keypoints'] = joints.ravel().tolist()
    return annotation


def _keypoints(scene: Scene, index: int, region: Region) -> np.ndarray:
    """Return (17, 3) whole numbers x, y, v; all zero for a crowd."""
    found = np.zeros((len(KEYPOINTS), 3), int)
    if region.crowd:
        return found
    height, width = scene.size
    for joint, (x, y, uncovered) in zip(found, region.joints.astype(int), strict=True):
        if 0 <= x < width and 0 <= y < height:
            seen = uncovered and scene.owner[y, x] == index
            joint[:] = x, y, 2 if seen else 1
    return found


def _detect(
    annotations: list[dict], rng: np.random.Generator, size: tuple[int, int], image_id: int
) -> list[dict]:
    """Imitate a detector of people: the true boxes moved a little, now and then a false one."""
    height, width = size
    boxes = []
    for annotation in annotations:
        if annotation['category_id'] == 1 and not annotation['iscrowd']:
            x, y, w, h = annotation['bbox']
            box = np.array([x, y, w, h]) + rng.normal(0, 0.03, 4) * (w, h, w, h)
            boxes.append((box, rng.uniform(0.8, 1)))
    if rng.random() < 0.3:
        x, y, w, h = rng.uniform(0, 0.6, 2).tolist() + rng.uniform(0.15, 0.4, 2).tolist()
        boxes.append(((x * width, y * height, w * width, h * height), rng.uniform(0.05, 0.4)))
    return [
        {
            'image_id': image_id,
            'category_id': 1,
            'bbox': np.round(box, 2).tolist(),
            'score': round(float(score), 4),
        }
        for box, score in boxes
    ]


def run_lengths(mask: np.ndarray) -> dict:
    """Encode an (h, w) mask as COCO's uncompressed run lengths, column by column, zeros first."""
    flat = np.concatenate([[0], mask.ravel(order='F')])
    starts = np.flatnonzero(np.diff(flat)).tolist()
    edges = [0, *starts, mask.size]
    return {'counts': np.diff(edges).tolist(), 'size': list(mask.shape)}


def polygons(mask: np.ndarray) -> list[list[int]]:
    """Outline an (h, w) mask by polygons along pixel borders, so that COCO decodes it exactly.

    COCO's polygons cannot have holes: a part of the mask around a hole is cut there into two.

    Returns:
        Flat lists x0, y0, x1, y1, ... with the picture's upper left corner at (0, 0).
    """
    # Every pixel becomes 2 x 2, so that an outline through the centres of these is a quarter of a
    # pixel inside the border, and halving with rounding up for odd numbers puts it on the border.
    doubled = mask.repeat(2, 0).repeat(2, 1)
    outlines, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline, (*_, parent) in zip(outlines, hierarchy[0] if outlines else (), strict=True):
        if parent >= 0:
            cut = (int(outline[..., 0].min()) + int(outline[..., 0].max()) + 2) // 4
            before, after = mask.copy(), mask.copy()
            before[:, cut:] = 0
            after[:, :cut] = 0
            return polygons(before) + polygons(after)
    found = []
    for outline in outlines:
        corners = (outline[:, 0] + 1) // 2
        corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
        straight = ((corners - np.roll(corners, 1, 0)) * (np.roll(corners, -1, 0) - corners)).any(1)
        found.append(corners[~straight].ravel().tolist())
    return found
