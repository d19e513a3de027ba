# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""LearnedActivationHook in real trainings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from toy_training import build_runner, pwlu_layers

from mmact.engine import LearnedActivationHook


def images_of(work_dir: Path) -> dict[str, Path]:
    return {p.stem: p for p in work_dir.rglob('vis_image/*.png')}


@pytest.mark.parametrize(
    ('loop', 'length', 'settings', 'steps'),
    [
        ('epoch', 3, dict(interval=2), (6, 9)),
        ('epoch', 2, dict(interval=4, by_epoch=False), (4, 6)),
        ('iter', 5, dict(interval=2, by_epoch=False), (2, 4, 5)),
    ],
)
def test_pictures_at_the_interval_and_at_the_end(tmp_path, loop, length, settings, steps):
    hooks = [dict(type='LearnedActivationHook', **settings)]
    runner = build_runner(
        tmp_path, loop, length, hook=dict(phase1=1, by_epoch=loop == 'epoch'), hooks=hooks
    )
    runner.train()
    images = images_of(tmp_path)
    assert set(images) == {
        f'{name}_{step}'
        for name in ('learned_activations', 'activation_alignment')
        for step in steps
    }
    for path in images.values():
        with Image.open(path) as image:
            assert np.asarray(image).std() > 10  # something is drawn
    scalars = [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).open()]
    ious = {s['step']: s['activation_iou'] for s in scalars if 'activation_iou' in s}
    assert tuple(ious) == steps
    # 0.55 for a normal distribution (six standard deviations against the 5 % to 95 % range).
    assert 0.2 < ious[steps[-1]] < 0.9
    for layer in pwlu_layers(runner.model).values():
        assert not layer._forward_pre_hooks


def test_training_is_bit_identical_with_and_without(tmp_path):
    settings = dict(length=2, hook=dict(phase1=1))
    hooks = [dict(type='LearnedActivationHook', interval=1, by_epoch=False)]
    build_runner(tmp_path / 'with', **settings, hooks=hooks).train()
    build_runner(tmp_path / 'without', **settings).train()
    assert len(images_of(tmp_path / 'with')) == 12
    assert not images_of(tmp_path / 'without')
    with_hook, without = (
        torch.load(tmp_path / f'{name}/epoch_2.pth', weights_only=False)
        for name in ('with', 'without')
    )
    for key, value in without['state_dict'].items():
        assert torch.equal(with_hook['state_dict'][key], value), key
    for index, state in without['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(with_hook['optimizer']['state'][index][key], value)


class CountHooks(Hook):
    """Counts the forward pre-hooks of all layers during each iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.counts = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        layers = pwlu_layers(runner.model).values()
        self.counts.append(sum(len(layer._forward_pre_hooks) for layer in layers))


def test_layers_are_watched_only_when_a_picture_is_due(tmp_path):
    count = CountHooks()
    hooks = [count, dict(type='LearnedActivationHook', interval=1)]
    build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1), hooks=hooks).train()
    assert count.counts == [0, 0, 2, 0, 0, 2]


@pytest.mark.parametrize(
    'settings', [dict(interval=0), dict(max_layers=True), dict(num_functions=-1)]
)
def test_numbers_must_be_positive(settings):
    with pytest.raises(ValueError, match=f'{next(iter(settings))} must be a positive integer'):
        LearnedActivationHook(**settings)


@pytest.mark.parametrize(
    ('loop', 'model', 'message'),
    [
        ('iter', {}, 'set by_epoch=False'),
        ('epoch', dict(act_cfg=dict(type='ReLU')), 'has no learned activation to draw'),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(tmp_path, loop, model, message):
    hooks = [dict(type='LearnedActivationHook')]
    runner = build_runner(tmp_path, loop, 2, model=model, hooks=hooks)
    own = next(h for h in runner.hooks if isinstance(h, LearnedActivationHook))
    with pytest.raises(ValueError, match=message):
        own.check(runner)
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_inputs_of_a_compiled_model_are_recorded(tmp_path):
    hooks = [dict(type='LearnedActivationHook', interval=2, by_epoch=False)]
    compiled = dict(compile=dict(backend='aot_eager'))
    runner = build_runner(
        tmp_path, 'iter', 4, hook=dict(phase1=1, by_epoch=False), hooks=hooks, cfg=compiled
    )
    runner.train()
    scalars = [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).open()]
    # Which is made of the inputs, and missing without.
    assert [s['step'] for s in scalars if 'activation_iou' in s] == [2, 4]
