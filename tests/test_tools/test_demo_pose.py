# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""tools/analysis_tools/draw_poses.py, and what tools say where MMPose or its data are missing."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_ops.utils import run_python

pytest.importorskip('mmengine')

from mmengine.registry import MODELS

from mmact.cli import load_config
from projects.mini_datasets import make_coco

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/analysis_tools/draw_poses.py'
DEMO = ROOT / 'configs/demo/td-hm_mobilenetv2-x05_relu_mini-coco.py'


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    """A miniature COCO and a checkpoint of the demo's model as it starts."""
    pytest.importorskip('mmpose')
    folder = tmp_path_factory.mktemp('poses')
    root = make_coco(folder / 'coco', num_train=1, num_val=3, size=(96, 128), quiet=True)
    torch.manual_seed(0)
    model = MODELS.build(load_config(_arguments(DEMO)).model)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'checkpoint.pth')
    return dict(root=root, checkpoint=folder / 'checkpoint.pth', out=folder / 'poses.png')


def _arguments(config: Path) -> argparse.Namespace:
    return argparse.Namespace(
        config=str(config), work_dir=None, cfg_options=None, launcher='none', local_rank=0
    )


@pytest.fixture
def run(run_tool):
    """Runs the tool in this process: (exit status, standard output, standard error)."""
    return run_tool(TOOL)


def _data(root: Path) -> list[str]:
    detections = 'person_detection_results/COCO_val2017_detections_AP_H_56_person.json'
    return [
        '--cfg-options',
        f'val_dataloader.dataset.data_root={root}/',
        f'val_dataloader.dataset.bbox_file={root}/{detections}',
    ]


def test_pictures_with_skeletons(files, run):
    # A model that has learned nothing is sure of nothing: every joint is drawn.
    options = ('--out', files['out'], '--height', 192, '--kpt-thr', -9, *_data(files['root']))
    status, out, err = run(DEMO, files['checkpoint'], *options)
    assert status == 0, err
    assert out.split()[-1] == str(files['out'])
    drawn = np.asarray(Image.open(files['out']))
    assert drawn.shape == (2 * 192, 2 * 256, 3)  # three pictures in a grid of four
    assert not drawn[192:, 256:].any()
    plain = Image.open(files['root'] / 'val2017/000000000002.jpg').resize((256, 192))
    first = drawn[:192, :256].astype(int)
    # Lines and joints differ from the picture, and most of it is still there.
    changed = (np.abs(first - np.asarray(plain)).max(2) > 60).mean()
    assert 0.005 < changed < 0.4


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--num', '0'], '--num must be at least 1, got 0'),
        (['--box-thr', '2'], 'no box of the validation data has a score of --box-thr 2'),
    ],
)
def test_errors_are_one_line(files, run, options, message):
    status, out, err = run(DEMO, files['checkpoint'], *options, *_data(files['root']))
    assert status == 2
    assert message in err.splitlines()[-1]
    assert not out.endswith('.png\n')


def test_missing_files_are_named_with_their_keys(files, run, tmp_path):
    status, _, err = run(DEMO, 'missing.pth')
    assert (status, err) == (2, 'error: checkpoint missing.pth does not exist\n')
    status, _, err = run(DEMO, files['checkpoint'], *_data(tmp_path))
    assert status == 2
    line = err.splitlines()[-1]
    assert f'{tmp_path}/annotations/person_keypoints_val2017.json does not exist' in line
    assert 'val_dataloader.dataset.data_root=DIR' in line
    assert 'val_dataloader.dataset.bbox_file=DIR/person_detection_results/' in line


def test_another_codebase_is_refused(files, run):
    pytest.importorskip('mmdet')
    status, _, err = run(ROOT / 'configs/demo/mask-rcnn_pwlu_mini-coco.py', files['checkpoint'])
    assert status == 2
    assert 'is not a config of MMPose' in err


def test_missing_mmpose_is_one_sentence():
    result = run_python(
        'import importlib.metadata as metadata, runpy, sys\n'
        'from importlib.machinery import PathFinder\n'
        'find_spec, version = PathFinder.find_spec, metadata.version\n'
        'PathFinder.find_spec = lambda n, *a: None if n == "mmpose" else find_spec(n, *a)\n'
        'def version_of(name):\n'
        '    if name == "mmpose":\n'
        '        raise metadata.PackageNotFoundError(name)\n'
        '    return version(name)\n'
        'metadata.version = version_of\n'
        f'sys.argv = ["train.py", {str(DEMO)!r}]\n'
        f'runpy.run_path({str(ROOT / "tools/train.py")!r}, run_name="__main__")'
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f'error: {DEMO} needs mmpose, which is not installed: `make setup` installs it, or '
        'pip install --no-build-isolation --no-deps -r requirements/pose.txt'
    )
