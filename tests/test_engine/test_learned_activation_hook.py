# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""LearnedActivationHook in real trainings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marks import slow
from mmengine.hooks import Hook
from PIL import Image
from report_page import Page
from test_pwlu_resume import train_on_two_ranks
from toy_training import build_runner, pwlu_layers

from mmact.engine import LearnedActivationHook
from mmact.visualization.snapshots import START_FILE


def images_of(work_dir: Path) -> dict[str, Path]:
    return {p.stem: p for p in work_dir.rglob('vis_image/*.png')}


def scalars_of(work_dir: Path) -> dict[int, dict[str, float]]:
    """The hook's scalars by their step."""
    found: dict[int, dict[str, float]] = {}
    for line in next(work_dir.rglob('scalars.json')).open():
        row = json.loads(line)
        new = {key: value for key, value in row.items() if key.startswith('activation_')}
        if new:
            found.setdefault(row['step'], {}).update(new)
    return found


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
    scalars = scalars_of(tmp_path)
    assert tuple(scalars) == steps
    last = scalars[steps[-1]]
    # 0.55 for a normal distribution (six standard deviations against the 5 % to 95 % range).
    assert 0.2 < last['activation_iou'] < 0.9
    assert 0 < last['activation_distance'] <= last['activation_distance_worst']
    assert 0 <= last['activation_outside'] <= last['activation_outside_worst'] < 0.5
    assert last['activation_constant'] == 0
    for layer in pwlu_layers(runner.model).values():
        assert not layer._forward_pre_hooks


@pytest.mark.parametrize('act', ['AReLU', 'DyReLUB'])
def test_scalars_mean_the_same_for_any_activation(tmp_path, act):
    # DyReLUB has no curve of its own to be drawn.
    hooks = [dict(type='LearnedActivationHook', interval=5, by_epoch=False)]
    model = dict(act_cfg=dict(type=act))
    sgd = dict(type='SGD', lr=0.5)
    build_runner(tmp_path, 'iter', 6, model=model, hooks=hooks, optimizer=sgd).train()
    scalars = scalars_of(tmp_path)
    assert tuple(scalars) == (5, 6)
    assert scalars[6].keys() == {
        f'activation_{name}{worst}' for name in ('distance', 'constant') for worst in ('', '_worst')
    }
    assert 0 < scalars[5]['activation_distance'] != scalars[6]['activation_distance']
    assert set(images_of(tmp_path)) == (
        set() if act == 'DyReLUB' else {'learned_activations_5', 'learned_activations_6'}
    )
    page = Page(tmp_path / LearnedActivationHook.PAGE)
    assert list(page.layers) == ['conv.2', 'fc.1']
    distances = [layer['summary']['distance'] for layer in page.layers.values()]
    assert sum(distances) / 2 == pytest.approx(scalars[6]['activation_distance'], rel=1e-4)


def test_the_page_has_the_history_and_the_start_survives_a_resume(tmp_path):
    hooks = [dict(type='LearnedActivationHook', interval=10)]
    build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1), hooks=hooks).train()
    page = Page(tmp_path / LearnedActivationHook.PAGE)
    assert page.meta['times'] == ['start', 'epoch 1', 'iter 6']
    start = (tmp_path / START_FILE).read_bytes()
    build_runner(tmp_path, 'epoch', 3, hook=dict(phase1=1), hooks=hooks, resume=True).train()
    assert (tmp_path / START_FILE).read_bytes() == start
    page = Page(tmp_path / LearnedActivationHook.PAGE)
    assert page.meta['times'] == ['start', 'epoch 1', 'epoch 2', 'iter 9']
    for layer in page.layers.values():
        assert layer['measured']
        assert layer['past'][0] == [0, 0]
        assert layer['past'][-1][0] > 0


def test_no_page_where_none_is_wanted(tmp_path):
    hooks = [dict(type='LearnedActivationHook', interval=10, report=False)]
    build_runner(tmp_path, 'epoch', 1, hooks=hooks).train()
    assert not (tmp_path / LearnedActivationHook.PAGE).exists()


def test_a_page_that_cannot_be_written_does_not_end_the_training(tmp_path):
    (tmp_path / LearnedActivationHook.PAGE).mkdir()
    hooks = [dict(type='LearnedActivationHook', interval=10)]
    build_runner(tmp_path, 'epoch', 1, hooks=hooks).train()
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'could not be written' in log
    assert 'report.py' in log


def test_all_processes_count_and_the_first_draws(tmp_path):
    first, second = train_on_two_ranks(tmp_path / 'work', '--length', 2, '--phase1', 1, '--draw')
    assert second['recorded'] is None
    samples, extremes, *_ = first['recorded']
    for path, found in samples.items():
        dim = 1  # channels, of both layers
        seen = [rank['inputs'][path][-1].transpose(0, dim).flatten(1) for rank in (first, second)]
        expected = torch.cat(seen, 1)
        assert torch.equal(found.sort(1).values, expected.sort(1).values)
        assert torch.equal(extremes[path], torch.stack([expected.amin(1), expected.amax(1)], 1))
    assert len(list((tmp_path / 'work').rglob('learned_activations_*.png'))) == 1
    assert (tmp_path / 'work' / LearnedActivationHook.PAGE).is_file()


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


@slow
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
