# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The common part of all makers: checks of arguments, random streams, the safe way to disk."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from operator import index
from pathlib import Path

import cv2
import numpy as np

# Raise it when the pictures or the annotations drawn from the same arguments change.
VERSION = 1
RECORD = 'mini.json'
MIN_SIDE = 32
SPLITS = ('train', 'val')


@dataclass(frozen=True)
class Job:
    """The arguments that decide every byte of a miniature data set."""

    dataset: str
    counts: dict[str, int]
    size: tuple[int, int]
    seed: int
    version: int = VERSION

    def pictures(self, split: str, quiet: bool) -> Iterator[tuple[int, np.random.Generator]]:
        """Yield the index and the random stream of each picture of 'train' or 'val'.

        A picture depends on seed, split and index only: a larger set begins with the smaller one.
        """
        for i in progress(range(self.counts[f'num_{split}']), quiet):
            yield i, np.random.default_rng([self.seed, SPLITS.index(split), i])

    def record(self) -> dict:
        """Return the arguments as `RECORD` holds them."""
        fields = asdict(self)
        return {'dataset': fields.pop('dataset'), **fields.pop('counts'), **fields}


def progress(items: range, quiet: bool) -> Iterator[int] | range:
    """Iterate over `items`, with MMEngine's progress bar where it is installed and wanted."""
    if quiet:
        return items
    try:
        from mmengine.utils import track_iter_progress
    except ImportError:
        return items
    return track_iter_progress(items)


def whole(name: str, value: int, smallest: int, unit: str = '') -> int:
    """Return an argument as an int; raise a ValueError if it is not one or below `smallest`."""
    try:
        number = index(value)
    except TypeError:
        number = smallest - 1
    if number < smallest:
        raise ValueError(
            f'{name} must be a whole number of at least {smallest}{unit}, got {value!r}'
        )
    return number


def generate(
    write: Callable[[Job, Path, bool], None],
    dataset: str,
    root: str | os.PathLike,
    counts: dict[str, int],
    size: tuple[int, int],
    seed: int,
    quiet: bool,
) -> Path:
    """Write a data set into a hidden folder beside `root` and move it there when it is complete.

    Nothing that exists is ever changed or deleted: `root` may be missing, an empty folder, or what
    an earlier call with the same arguments wrote, which is then kept as it is.

    Args:
        write: Writes all files of a job into the folder it is given.
        dataset: Name of the data set.
        root: Folder to make.
        counts: Number of each kind of part by its argument's name, as `num_train`; at least 1.
        size: Height and width of the pictures, at least 32 pixels each.
        seed: Whole number of at least 0.
        quiet: Whether to show no progress.

    Returns:
        The absolute path of `root`.

    Raises:
        ValueError: If an argument is out of its range.
        FileExistsError: If `root` holds anything else.
    """
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f'size must be (height, width), got {size!r}')
    job = Job(
        dataset,
        {name: whole(name, count, 1) for name, count in counts.items()},
        tuple(whole('size', side, MIN_SIDE, ' pixels') for side in size),
        whole('seed', seed, 0),
    )
    root = Path(root).expanduser().resolve()
    if _is_done(root, job):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}.partial-', dir=root.parent) as parts:
        folder = Path(parts, root.name)
        folder.mkdir()
        write(job, folder, quiet)
        write_json(folder / RECORD, {**job.record(), 'files': _count_files(folder)})
        # Replaces nothing but a missing or an empty folder: otherwise the system refuses.
        folder.replace(root)
    return root


def _count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob('*') if path.name != RECORD)


def _is_done(root: Path, job: Job) -> bool:
    """Tell whether `root` already is the result; raise if it is anything but free to use."""
    if not os.path.lexists(root) or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        record = json.loads((root / RECORD).read_text())
        files = record.pop('files')
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FileExistsError(
            f'root {root} exists and is not a miniature data set: choose another '
            'folder, or one that is empty'
        ) from None
    wanted = json.loads(json.dumps(job.record()))
    other = [
        f'{key} {record.get(key)!r} instead of {value!r}'
        for key, value in wanted.items()
        if record.get(key) != value
    ]
    if not other and files != _count_files(root):
        other = [f'{_count_files(root)} files instead of {files}']
    if other:
        raise FileExistsError(
            f'root {root} holds a miniature data set with {", ".join(other)}: '
            'remove it yourself or choose another folder'
        )
    return True


def write_json(path: Path, content: dict | list) -> None:
    """Write compact JSON, making the folder it goes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(',', ':')))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a picture as the file name's ending says, making the folder it goes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # imencode and write_bytes, because imwrite reports a full disk by nothing but False.
    _, encoded = cv2.imencode(path.suffix, image)
    path.write_bytes(encoded.tobytes())
