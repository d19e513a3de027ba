# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A miniature data set, and tools that run in the process of the test."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def mini_coco(tmp_path_factory) -> str:
    pytest.importorskip('mmdet')
    from projects.mini_datasets import make_coco

    root = tmp_path_factory.mktemp('mini_coco')
    return f'{make_coco(root, num_train=4, num_val=3, size=(64, 64), quiet=True)}/'


@pytest.fixture
def small(mini_coco) -> list[str]:
    """--cfg-options that let the demo train 4 iterations in seconds, realigning after two."""
    options = [
        'model.backbone.base_channels=4',
        'model.neck.in_channels=[4,8,16,32]',
        'model.train_cfg.rcnn.sampler.num=16',
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=5',
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'custom_hooks.0.phase1=2',
        'custom_hooks.1.interval=4',
        'custom_hooks.1.max_layers=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ]
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.data_root={mini_coco}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
        if split != 'train':
            annotations = f'{mini_coco}annotations/instances_val2017.json'
            options.append(f'{split}_evaluator.ann_file={annotations}')
    return options


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Runs a tool as __main__ in this process. Returns (exit status, last line on stderr)."""
    # The configs' data roots are relative, and nothing must be found there.
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        status = 0
        try:
            runpy.run_path(str(ROOT / f'tools/{tool}.py'), run_name='__main__')
        except SystemExit as stop:
            status = stop.code
        lines = capfd.readouterr().err.strip().splitlines()
        return status, lines[-1] if lines else ''

    return run
