# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""`make demo-seg`, from the training to the pictures, on a few tiny streets."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from marks import slow_unless
from test_ops.utils import ROOT

pytest.importorskip('mmseg')

from projects.mini_datasets import make_cityscapes

SIZE = (64, 128)


@pytest.fixture(scope='module')
def streets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'cityscapes'
    return make_cityscapes(root, num_train=4, num_val=1, size=SIZE, quiet=True)


def _options(root: Path) -> list[str]:
    """For tools/train.py: one iteration on the streets."""
    return [
        *(f'{split}_dataloader.dataset.data_root={root}/' for split in ('train', 'val')),
        *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
        *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
        # By this number an iteration is chosen whose picture is drawn.
        'default_hooks.visualization.interval=1',
    ]


@pytest.mark.parametrize('act', slow_unless('ditac'.__eq__, ['ditac', 'gelu', 'relu']))
def test_demo(act, streets, tmp_path, run_tool):
    config = ROOT / f'configs/demo/pspnet_{act}_mini-cityscapes.py'
    train = run_tool(ROOT / 'tools/train.py')
    status, _, error = train(config, '--work-dir', tmp_path, '--cfg-options', *_options(streets))
    assert status == 0, error
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert ('loss_smoothness: ' in log) == (act == 'ditac')
    if act == 'gelu':  # to the script it is the same as ReLU
        return
    # The script leaves this behind after the training; it does not repeat a finished one.
    (tmp_path / 'finished').touch()
    result = subprocess.run(
        [ROOT / 'tools/demo.sh', sys.executable, config, tmp_path, 'demo-seg'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    score = re.search(r'classes: mIoU % (\S+), pixels right % (\S+)\n', result.stdout)
    assert score, result.stdout
    assert 0 <= float(score[1]) <= float(score[2]) <= 100
    # Truth and prediction side by side.
    assert f'prediction right): {tmp_path}/segmentation.png' in result.stdout
    picture = cv2.imread(str(tmp_path / 'segmentation.png'))
    assert picture.shape == (SIZE[0], 2 * SIZE[1], 3)
    assert (picture[:, : SIZE[1]] != picture[:, SIZE[1] :]).any()
    functions = tmp_path / 'functions.png'
    assert functions.exists() == (act == 'ditac')
    assert (str(functions) in result.stdout) == functions.exists()
