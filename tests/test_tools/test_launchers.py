# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The launch scripts: distributed training over gloo, and their usage messages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marks import slow

pytest.importorskip('mmdet')

from projects.mini_datasets import make_coco

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / 'configs/demo/mask-rcnn_pwlu_mini-coco.py'
# Saves what every rank has after realignment and at the end; only rank 0 writes checkpoints.
WITNESS = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Witness(Hook):
    priority = 'LOWEST'

    def before_run(self, runner):
        self.folder = runner.work_dir

    def _save(self, runner, name):
        torch.save(runner.model.module.state_dict(), f'{self.folder}/{name}_rank{runner.rank}.pth')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            self._save(runner, 'realigned')

    def after_train(self, runner):
        self._save(runner, 'end')
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason='with GPUs, two processes would want two')
@slow
def test_two_processes_train_and_test_over_gloo(tmp_path):
    data = make_coco(tmp_path / 'mini_coco', num_train=8, num_val=4, size=(64, 64), quiet=True)
    annotations = data / 'annotations/instances_val2017.json'
    (tmp_path / 'witness.py').write_text(WITNESS)
    config = tmp_path / 'two_ranks.py'
    config.write_text(
        f"_base_ = '{DEMO}'\n"
        "custom_imports = dict(imports=['mmact', 'witness'])\n"
        "custom_hooks = [dict(type='PWLURealignHook', phase1=2, by_epoch=False),\n"
        "                dict(type='Witness')]\n"
        'train_cfg = dict(max_iters=4, val_interval=4)\n'
        'model = dict(backbone=dict(base_channels=4), neck=dict(in_channels=[4, 8, 16, 32]),\n'
        '             train_cfg=dict(rcnn=dict(sampler=dict(num=16))),\n'
        '             test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5)))\n'
        'workers = dict(num_workers=0, persistent_workers=False)\n'
        f"dataset = dict(data_root='{data}/')\n"
        'train_dataloader = dict(batch_size=2, dataset=dataset, **workers)\n'
        'val_dataloader = dict(dataset=dataset, **workers)\n'
        'test_dataloader = val_dataloader\n'
        f"val_evaluator = dict(ann_file='{annotations}')\n"
        'test_evaluator = val_evaluator\n'
    )
    work_dir = tmp_path / 'work'
    _launch('dist_train.sh', config, 2, '--work-dir', work_dir, tmp_path=tmp_path)
    for name in ('realigned', 'end'):
        first, second = (torch.load(work_dir / f'{name}_rank{rank}.pth') for rank in (0, 1))
        acts = [key for key in first if '.act' in key]
        assert acts
        for key, value in first.items():
            # Without SyncBN the running statistics are each rank's own.
            if '.running_' not in key or key in acts:
                assert torch.equal(value, second[key]), key
    assert not torch.equal(
        torch.load(work_dir / 'realigned_rank0.pth')['backbone.act1.points'],
        first['backbone.act1.points'],
    )
    checkpoint = work_dir / 'iter_4.pth'
    output = _launch(
        'dist_test.sh', config, checkpoint, 2, '--work-dir', work_dir, tmp_path=tmp_path
    )
    assert 'coco/segm_mAP' in output


def _launch(script: str, *args, tmp_path: Path) -> str:
    env = {**os.environ, 'PYTHON': sys.executable, 'PORT': '29653', 'OMP_NUM_THREADS': '1'}
    env['PYTHONPATH'] = os.pathsep.join([str(ROOT), str(tmp_path)])
    result = subprocess.run(
        [ROOT / 'tools' / script, *map(str, args)],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_usage(script):
    path = ROOT / f'tools/{script}.sh'
    assert os.access(path, os.X_OK)
    result = subprocess.run([path, 'config.py'], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f'usage: {path}')


def _partition() -> str:
    if shutil.which('srun') is None:
        pytest.skip('Slurm is not installed')
    sinfo = ['sinfo', '--noheader', '--states=idle', '--format=%R']
    partitions = subprocess.run(sinfo, capture_output=True, text=True).stdout.split()
    return partitions[0] if partitions else pytest.skip('no Slurm partition is up')


def test_slurm_job_trains_nothing_without_a_config(tmp_path):
    partition = _partition()
    resources = {'GPUS': '1', 'GPUS_PER_NODE': '0', 'CPUS_PER_TASK': '1'}
    result = subprocess.run(
        [ROOT / 'tools/slurm_train.sh', partition, 'job', 'no.py', tmp_path],
        env={**os.environ, **resources, 'PYTHON': sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert 'error: config no.py does not exist' in result.stderr
