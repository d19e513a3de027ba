# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Bad data and full disks end a training with one line that names the place."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from marks import slow, slow_unless

pytest.importorskip('mmdet')

from mmact.data_checks import annotation_trouble, work_dir_trouble

ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / 'configs/demo/mask-rcnn_pwlu_mini-coco.py')
JSON = 'annotations/instances_train2017.json'


@pytest.fixture
def data(mini_coco, tmp_path):
    """A copy of the data that may be spoiled, and the option that names it."""
    folder = tmp_path / 'data'
    shutil.copytree(mini_coco, folder)
    return folder, f'train_dataloader.dataset.data_root={folder}/'


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_box_that_is_no_number(run, small, data, tmp_path):
    folder, option = data

    def spoil(content):
        content['annotations'][3]['bbox'][2] = float('nan')

    change(folder / JSON, spoil)
    ident = json.loads((folder / JSON).read_text())['annotations'][3]['id']
    status, line = run('train', DEMO, '--work-dir', tmp_path / 'w', '--cfg-options', *small, option)
    assert status == 2
    assert line.startswith(f'error: {folder / JSON}: annotation {ident} of image ')
    assert 'has a bbox that is not finite: [' in line


def test_words_that_look_like_numbers(tmp_path):
    path = tmp_path / 'a.json'
    found = dict(annotations=[dict(id=7, caption='NaN, Infinity', bbox=[0.0, 1.0, 2.0, 3.0])])
    path.write_text(json.dumps(found))
    assert annotation_trouble(str(path)) is None
    found['annotations'][0]['segmentation'] = [[0.0, float('-inf')]]
    path.write_text(json.dumps(found))
    assert 'annotation 7 of image ? has a segmentation' in annotation_trouble(str(path))


def test_a_class_that_the_annotations_do_not_have(run, small, data, tmp_path):
    """MMDetection would number the classes after it anew."""
    folder, option = data
    change(folder / JSON, lambda content: content['categories'].pop(5))
    status, line = run('train', DEMO, '--work-dir', tmp_path / 'w', '--cfg-options', *small, option)
    assert status == 2
    assert line.startswith(f'error: {folder / JSON} has no category ')
    assert 'metainfo.classes' in line


def test_a_work_dir_that_cannot_be_written_to(run, small, tmp_path):
    (tmp_path / 'file').write_text('')
    places = [tmp_path / 'file' / 'below']
    if Path('/sys').is_dir():
        places.append(Path('/sys/mmact'))  # read-only for root as well
    for place in places:
        assert str(place) in work_dir_trouble(str(place))
    status, line = run('train', DEMO, '--work-dir', places[-1], '--cfg-options', *small)
    assert status == 2
    assert line.startswith(f'error: nothing can be written to the work_dir {places[-1]}: ')
    assert '--work-dir' in line


@pytest.mark.parametrize('bad', slow_unless('truncated'.__eq__, ['deleted', 'truncated']))
def test_an_image_that_cannot_be_read(run, small, data, tmp_path, bad):
    """All but the first, which is tried before; the checkpoint of the first iteration stays."""
    folder, option = data
    for path in sorted((folder / 'train2017').iterdir())[1:]:
        if bad == 'deleted':
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:20])
    work_dir = tmp_path / 'w'
    options = (*small, option, 'train_dataloader.batch_size=1')
    status, line = run('train', DEMO, '--work-dir', work_dir, '--cfg-options', *options)
    assert status == 1, line
    assert line.startswith('error: ')
    assert str(folder / 'train2017') in line
    assert line.count('error:') == 1
    assert 'nothing was saved' in line or 'is whole' in line


@slow
def test_a_full_disk(run, small, tmp_path):
    """Files cannot grow beyond a limit: the checkpoint that does not fit is not there at all."""
    work_dir = tmp_path / 'w'
    status, line = run('train', DEMO, '--work-dir', work_dir, '--cfg-options', *small)
    assert status == 0, line
    first, size = work_dir / 'iter_2.pth', (work_dir / 'iter_2.pth').stat().st_size
    for path in work_dir.glob('iter_4.pth'):
        path.unlink()
    (work_dir / 'last_checkpoint').write_text(str(first))
    before, limits = first.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        status, line = run(
            *('train', DEMO, '--work-dir', work_dir, '--resume', '--cfg-options', *small)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1, line
    assert line.startswith('error: OSError: ')
    assert 'the checkpoint of iteration 4 is not written' in line
    assert f'{first} is whole, --resume goes on from it' in line
    assert first.read_bytes() == before
    assert {p.name for p in work_dir.glob('iter_*.pth*')} == {first.name}
    assert torch.load(first, weights_only=False)['meta']['iter'] == 2
    assert not [p for p in os.listdir(work_dir) if p.endswith('.part')]
