# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings that draw random numbers everywhere resume exactly, and lose no checkpoint."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from test_pwlu_resume import assert_same_checkpoint
from torch.utils.data import BatchSampler
from toy_training import ITERATIONS_PER_EPOCH, NoisyDataset, build_runner

LENGTH = 7  # iterations of the trainings below: two epochs and a bit
WORKERS = dict(
    none=dict(num_workers=0),
    two=dict(num_workers=2),
    persistent=dict(num_workers=2, persistent_workers=True),
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Others may keep it busy for most of a second at each checkpoint."""
    monkeypatch.setattr(os, 'fsync', lambda file: None)


class Inputs(Hook):
    """Keeps the images of every iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seen: dict[int, torch.Tensor] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen[runner.iter] = data_batch['inputs'].clone()


@DATA_SAMPLERS.register_module()
class PairsOfLabels(BatchSampler):
    """A batch sampler that is not PyTorch's own, as AspectRatioBatchSampler is none."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=True)


def noisy(work_dir: Path, loop: str, hooks: list | None = None, **kwargs):
    """A training with dropout, augmentation, validations and a checkpoint at every iteration."""
    kwargs = {'loader': WORKERS['none'], 'length': 3 if loop == 'epoch' else LENGTH, **kwargs}
    kwargs['loader'] = dict(dataset=NoisyDataset(), **kwargs['loader'])
    return build_runner(
        work_dir,
        loop,
        model=dict(dropout=True),
        hooks=[dict(type='EMAHook', momentum=0.1), *(hooks or [])],
        val=True,
        **{
            'checkpoint': dict(type='ResumableCheckpointHook', interval=1, by_epoch=False),
            **kwargs,
        },
    )


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    """(work dir, images of each iteration) of unbroken trainings without workers."""
    made = {}

    def make(loop: str) -> tuple[Path, dict]:
        if loop not in made:
            folder, inputs = tmp_path_factory.mktemp(loop), Inputs()
            noisy(folder, loop, [inputs]).train()
            made[loop] = folder, inputs.seen
        return made[loop]

    return make


@pytest.mark.parametrize(
    ('loop', 'workers'), [('epoch', 'none'), ('epoch', 'two'), ('iter', 'none'), ('iter', 'two')]
)
def test_images_do_not_depend_on_workers_or_on_resuming(tmp_path, unbroken, loop, workers):
    whole, images = unbroken(loop)
    last = max(images) + 1
    for stop in (2, ITERATIONS_PER_EPOCH) if workers == 'none' else (0, 5):  # in epochs and between
        inputs = Inputs()
        start = dict(resume=True, load_from=str(whole / f'iter_{stop}.pth')) if stop else {}
        folder = tmp_path / str(stop)
        noisy(folder, loop, [inputs], loader=WORKERS[workers], **start).train()
        assert sorted(inputs.seen) == list(range(stop, last))
        for iteration, seen in inputs.seen.items():
            assert torch.equal(seen, images[iteration]), iteration
        assert_same_checkpoint(whole / f'iter_{last}.pth', folder / f'iter_{last}.pth')


def test_every_iteration_draws_anew(unbroken):
    _, images = unbroken('iter')
    assert len({float(seen.sum()) for seen in images.values()}) == LENGTH


@pytest.mark.parametrize(
    'sampler',
    [
        dict(sampler=dict(type='DefaultSampler', shuffle=True)),
        dict(
            sampler=dict(type='InfiniteSampler', shuffle=True),
            batch_sampler=dict(type='PairsOfLabels'),
        ),
    ],
    ids=['DefaultSampler', 'batch-sampler'],
)
def test_iterations_over_other_samplers(tmp_path, monkeypatch, sampler):
    # MMEngine waits this long when a sampler ends in an iteration-based training.
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)

    def train(folder, **kwargs):
        inputs = Inputs()
        noisy(tmp_path / folder, 'iter', [inputs], train_loader=sampler, **kwargs).train()
        return inputs.seen

    images = train('whole')
    resumed = train('resumed', resume=True, load_from=str(tmp_path / 'whole/iter_5.pth'))
    assert all(torch.equal(resumed[i], images[i]) for i in (5, 6))
    assert_same_checkpoint(tmp_path / 'whole/iter_7.pth', tmp_path / 'resumed/iter_7.pth')
