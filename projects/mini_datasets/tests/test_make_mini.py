# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The way of data sets to disk, and the command line tool."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from projects.mini_datasets import MAKERS, make_ade20k, make_coco

REPOSITORY = Path(__file__).resolve().parents[3]
TOOL = 'tools/dataset_converters/make_mini.py'
SMALL = {'num_train': 2, 'num_val': 1, 'size': (32, 40), 'quiet': True}
SMALL_LGG = {'num_patients': 1, 'num_slices': 3, 'size': (32, 40), 'quiet': True}
PICTURES = ('.jpg', '.png', '.tif', '.JPEG')
LABELS = ('annotations', 'gtFine', '_mask')


def _contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()
    }


def _start(*arguments):
    # As a user starts it: from the repository root and without mmact on the path.
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.Popen(
        [sys.executable, TOOL, *map(str, arguments)],
        cwd=REPOSITORY,
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize('name', sorted(MAKERS))
def test_the_seed_decides_every_byte(tmp_path, name):
    small = SMALL_LGG if name == 'lgg' else SMALL
    one, same, other = (
        MAKERS[name](tmp_path / folder, seed=seed, **small)
        for folder, seed in (('one', 5), ('same', 5), ('other', 6))
    )
    assert _contents(one) == _contents(same)
    pictures, others = (
        [
            content
            for path, content in _contents(root).items()
            if path.endswith(PICTURES) and not any(label in path for label in LABELS)
        ]
        for root in (one, other)
    )
    assert len(set(pictures)) == len(pictures) == 3
    assert not set(pictures) & set(others)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    small = make_ade20k(tmp_path / 'small', **SMALL)
    large = make_ade20k(tmp_path / 'large', **{**SMALL, 'num_train': 4, 'num_val': 2})
    assert (small / 'images/training/ADE_train_00000002.jpg').read_bytes() == (
        large / 'images/training/ADE_train_00000002.jpg'
    ).read_bytes()


def test_a_complete_set_is_kept(tmp_path):
    root = make_coco(tmp_path / 'coco', **SMALL)
    before = (root / 'mini.json').stat()
    assert make_coco(root, **SMALL) == root
    assert (root / 'mini.json').stat() == before
    with pytest.raises(FileExistsError, match='seed 0 instead of 1'):
        make_coco(root, seed=1, **SMALL)
    with pytest.raises(FileExistsError, match="dataset 'coco' instead of 'ade20k'"):
        make_ade20k(root, **SMALL)
    next((root / 'train2017').iterdir()).unlink()
    with pytest.raises(FileExistsError, match='7 files instead of 8'):
        make_coco(root, **SMALL)


@pytest.mark.parametrize('content', ['notes.txt', 'mini.json', 'train2017/000000000001.jpg'])
def test_foreign_files_are_refused_and_kept(tmp_path, content):
    path = tmp_path / 'data' / content
    path.parent.mkdir(parents=True)
    path.write_text('[]')
    with pytest.raises(FileExistsError, match='is not a miniature data set'):
        make_coco(tmp_path / 'data', **SMALL)
    assert _contents(tmp_path) == {f'data/{content}': b'[]'}
    with pytest.raises(FileExistsError, match='is not a miniature data set'):
        make_coco(path, **SMALL)


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / 'data').mkdir()
    make_coco(tmp_path / 'data', **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data']
    assert (tmp_path / 'data' / 'annotations').is_dir()


@pytest.mark.parametrize(
    ('argument', 'value', 'message'),
    [
        ('num_train', 0, 'num_train must be a whole number of at least 1, got 0'),
        ('num_val', 1.5, 'num_val must be a whole number of at least 1, got 1.5'),
        ('size', (31, 64), 'size must be a whole number of at least 32 pixels, got 31'),
        ('size', (64, -1), 'size must be a whole number of at least 32 pixels, got -1'),
        ('size', 64, r'size must be \(height, width\), got 64'),
        ('seed', -1, 'seed must be a whole number of at least 0, got -1'),
    ],
)
def test_bad_arguments(tmp_path, argument, value, message):
    with pytest.raises(ValueError, match=message):
        make_coco(tmp_path / 'coco', **{**SMALL, argument: value})
    assert not list(tmp_path.iterdir())


def test_tool_writes_and_reports(tmp_path):
    process = _start(
        'cityscapes',
        tmp_path / 'a' / 'city',
        '--num-train',
        2,
        '--num-val',
        1,
        '--size',
        32,
        64,
        '--seed',
        4,
    )
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert str(tmp_path / 'a' / 'city') in output
    assert 'gtFine/train/aachen: 2 files' in output
    assert 'leftImg8bit/val/frankfurt: 1 files' in output
    expected = MAKERS['cityscapes'](tmp_path / 'same', 2, 1, (32, 64), seed=4, quiet=True)
    assert _contents(expected) == _contents(tmp_path / 'a' / 'city')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('pascal', 'x'), "invalid choice: 'pascal'"),
        (('coco',), 'required: root'),
        (
            ('coco', 'x', '--num-train', '0'),
            'num_train must be a whole number of at least 1, got 0',
        ),
        (('coco', 'x', '--size', '10', '64'), 'at least 32 pixels, got 10'),
        (('coco', 'x', '--seed', 'one'), "--seed: invalid int value: 'one'"),
        (('coco', 'x', '--num-slices', '5'), '--num-slices does not apply to coco'),
        (('lgg', 'x', '--num-val', '5'), '--num-val does not apply to lgg'),
        (
            ('lgg', 'x', '--num-slices', '2'),
            'num_slices must be a whole number of at least 3, got 2',
        ),
        (('coco', '.'), 'is not a miniature data set'),
        (('coco', 'a_file/x'), 'a_file'),
    ],
)
def test_tool_errors_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / 'a_file').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['make_mini.py', *arguments])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(REPOSITORY / TOOL), run_name='__main__')
    output, errors = capsys.readouterr()
    assert exit_info.value.code == 2
    assert output == ''
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert _contents(tmp_path) == {'a_file': b''}


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path):
    root = tmp_path / 'coco'
    process = _start('coco', root, '--num-train', 100000, '--size', 32, 32)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob('*.jpg')):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not root.exists()
    assert all(path.name.startswith('.coco.partial-') for path in tmp_path.iterdir())
    make_coco(root, **SMALL)
    assert (root / 'annotations' / 'instances_train2017.json').is_file()


def test_a_failed_run_cleans_up(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError('no space left')

    monkeypatch.setattr('projects.mini_datasets.coco.write_json', full_disk)
    with pytest.raises(OSError, match='no space left'):
        make_coco(tmp_path / 'coco', **SMALL)
    assert not list(tmp_path.iterdir())
