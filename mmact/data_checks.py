# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with data, found before or said after a training: one line that names the place."""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.runner import Runner, find_latest_checkpoint

_FIELDS = ('bbox', 'area', 'segmentation', 'keypoints')


def work_dir_trouble(path: str) -> str | None:
    """Why nothing can be written to a folder, which is made if it is not there; None if it can."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b'0' * 4096)
    except OSError as error:
        return (
            f'nothing can be written to the work_dir {path}: {error.strerror}. Give another with '
            '--work-dir'
        )
    return None


def annotation_trouble(path: str) -> str | None:
    """Which annotation of a JSON file has a number that is not finite; None if there is none.

    JSON has no such numbers, but Python writes and reads NaN and Infinity. A file is parsed only if
    one of the words is in it.
    """
    if not path.endswith('.json') or not os.path.isfile(path) or not os.path.getsize(path):
        return None
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if text.find(b'NaN') < 0 and text.find(b'Infinity') < 0:
            return None
    try:
        content = json.loads(Path(path).read_text())
    except ValueError:
        return None  # the data set says what is wrong with it
    found = content.get('annotations') if isinstance(content, dict) else content
    for number, annotation in enumerate(found if isinstance(found, list) else []):
        for name in _FIELDS:
            value = annotation.get(name) if isinstance(annotation, dict) else None
            if not _finite(value):
                return (
                    f'{path}: annotation {annotation.get("id", number)} of image '
                    f'{annotation.get("image_id", "?")} has a {name} that is not finite: '
                    f'{str(value)[:80]}. Mend or remove it'
                )
    return None


def _finite(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


def class_trouble(dataset: Any) -> str | None:
    """Which classes of a config a COCO data set's annotations do not have; None if they have all.

    MMDetection leaves them out without a word, and numbers those after them anew.
    """
    for inner in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
        if inner is not None:
            trouble = class_trouble(inner)
            if trouble is not None:
                return trouble
    ids, wanted = getattr(dataset, 'cat_ids', None), getattr(dataset, 'metainfo', {}).get('classes')
    path: Any = getattr(dataset, 'ann_file', None)
    if ids is None or not wanted or len(ids) == len(wanted) or not os.path.isfile(path or ''):
        return None
    found = [c['name'] for c in json.loads(Path(path).read_text()).get('categories', [])]
    missing = [name for name in wanted if name not in found]
    if not missing:
        return None
    shown = ', '.join(missing[:5]) + (f' and {len(missing) - 5} more' if len(missing) > 5 else '')
    return (
        f'{path} has no category {shown}, which metainfo.classes of its dataset asks for: put the '
        f'classes of the annotations there (and their number into num_classes)'
    )


@contextmanager
def failures_in_one_line(runner: Runner) -> Iterator[None]:
    """Ends the program with one line if its data or disk fail a training, and says what is saved.

    The environment variable ``MMACT_TRACEBACK=1`` shows the traceback.
    """
    try:
        yield
    except (OSError, FloatingPointError, AssertionError) as error:
        known = not isinstance(error, AssertionError) or 'failed to load image' in str(error)
        if not known or os.environ.get('MMACT_TRACEBACK', '0') != '0':
            raise
        # A worker's error is the last line of the traceback that is its text.
        text = str(error).strip().splitlines()[-1]
        name = type(error).__name__
        text = text if text.startswith(name) else f'{name}: {text}'
        latest = find_latest_checkpoint(runner.work_dir)
        saved = f'{latest} is whole, --resume goes on from it' if latest else 'nothing was saved'
        print(f'error: {text}. {saved} (MMACT_TRACEBACK=1 shows where)', file=sys.stderr)
        sys.exit(1)
