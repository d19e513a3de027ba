# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PWLURealignHook in real trainings: phases, statistics, optimizers, EMA, errors."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from toy_training import (
    ADAMW,
    ITERATIONS_PER_EPOCH,
    SGD,
    ToyModel,
    Watch,
    build_runner,
    pwlu_layers,
)

from mmact.activations import PWLU
from mmact.engine import PWLURealignHook

PARAMETERS = ('left_bound', 'right_bound', 'left_slope', 'right_slope', 'points')
# loop, its length, phase1, by_epoch, first iteration of phase II
SCHEDULES = [
    pytest.param('epoch', 4, 2, True, 2 * ITERATIONS_PER_EPOCH, id='epochs'),
    pytest.param('iter', 9, 4, False, 4, id='iterations'),
    pytest.param('epoch', 3, 4, False, 4, id='iterations-of-epoch-loop'),
]


def log_of(runner) -> str:
    return '\n'.join(p.read_text() for p in Path(runner.work_dir).rglob('*.log'))


def statistics_by_hand(inputs: list[torch.Tensor], channel_dim: int):
    """Eq. 5 in float64, from the inputs of all forwards of phase I."""
    mean = std = None
    for x in inputs:
        x = x.double().movedim(channel_dim, 0).flatten(1)
        batch_mean, batch_std = x.mean(1), x.std(1, correction=0)
        mean = batch_mean if mean is None else 0.9 * mean + 0.1 * batch_mean
        std = batch_std if std is None else 0.9 * std + 0.1 * batch_std
    return mean, std


@pytest.mark.parametrize(('loop', 'length', 'phase1', 'by_epoch', 'start'), SCHEDULES)
def test_statistics_and_realignment_are_eq_5_and_6(tmp_path, loop, length, phase1, by_epoch, start):
    watch = Watch()
    runner = build_runner(
        tmp_path, loop, length, hook=dict(phase1=phase1, by_epoch=by_epoch), hooks=[watch]
    )
    runner.train()

    for iteration, phases in watch.phases.items():
        expected = 'collect' if iteration < start else 'learn'
        assert set(phases.values()) == {expected}, iteration
    for path, channel_dim in (('conv.2', 1), ('fc.1', -1)):
        mean, std = statistics_by_hand(watch.inputs[path][:start], channel_dim)
        state = watch.states[start][path]
        torch.testing.assert_close(state['running_mean'].double(), mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(state['running_std'].double(), std, atol=1e-6, rtol=1e-5)
        left, right = mean - 3 * std, mean + 3 * std
        share = torch.linspace(0, 1, 9).double()
        values = {
            'left_bound': left,
            'right_bound': right,
            'left_slope': torch.zeros_like(mean),
            'right_slope': torch.ones_like(mean),
            'points': (left[:, None] + (right - left)[:, None] * share).relu().flatten(),
        }
        for name, value in values.items():
            torch.testing.assert_close(state[name].double(), value, atol=3e-6, rtol=1e-5)
        # Statistics are those of phase I only.
        last = watch.states[max(watch.states)][path]
        assert int(last['num_batches_tracked']) == start
        assert torch.equal(last['running_mean'], state['running_mean'])
    unit = f'{phase1} epochs' if by_epoch else f'{phase1} iterations'
    assert f'phase II after {unit}: realigned 2 PWLU layers, 10 channels, 0 of them' in log_of(
        runner
    )


@pytest.mark.parametrize('optimizer', [SGD, ADAMW], ids=lambda o: o['type'])
def test_optimizer_leaves_parameters_alone_in_phase_1(tmp_path, optimizer):
    watch = Watch()
    runner = build_runner(
        tmp_path, 'iter', 9, hook=dict(phase1=5, by_epoch=False), hooks=[watch], optimizer=optimizer
    )
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    # The default constructor gives weight decay to everything.
    assert len(runner.optim_wrapper.param_groups) == 1
    for path in watch.layers:
        for name in PARAMETERS:
            for iteration in range(5):
                assert torch.equal(watch.states[iteration][path][name], before[f'{path}.{name}'])
        # Slopes may not: hardly any input lies beyond three standard deviations.
        for name in ('points', 'left_bound', 'right_bound'):
            assert not torch.equal(watch.states[8][path][name], watch.states[5][path][name])
    assert not torch.equal(runner.model.conv[0].weight, before['conv.0.weight'])


def test_without_the_hook_weight_decay_would_move_idle_parameters(tmp_path):
    # The test above protects against this: zero gradients alone do not stop an optimizer.
    runner = build_runner(tmp_path, 'iter', 2)
    layers = pwlu_layers(runner.model)
    for layer in layers.values():
        layer.start_collecting()
    runner.train()
    assert all(layer.right_bound[0] < 3 for layer in layers.values())


class PlantOptimizerState(Hook):
    """Gives PWLU parameters an optimizer state in phase I, as a foreign checkpoint might have."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration
        self.after = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        state = runner.optim_wrapper.optimizer.state
        parameters = [p for m in pwlu_layers(runner.model).values() for p in m.parameters()]
        if runner.iter == self.iteration:
            for p in parameters:
                state[p]['exp_avg'] = torch.full_like(p, 100.0)
                state[p]['exp_avg_sq'] = torch.full_like(p, 100.0)
                state[p]['step'] = torch.tensor(50.0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        optimizer = runner.optim_wrapper.optimizer
        layer = pwlu_layers(runner.model)['fc.1']
        self.after[runner.iter] = {k: v.clone() for k, v in optimizer.state[layer.points].items()}
        self.conv = optimizer.state[runner.model.conv[0].weight]


def test_optimizer_state_is_cleared_at_realignment(tmp_path):
    plant = PlantOptimizerState(iteration=2)
    runner = build_runner(
        tmp_path, 'iter', 6, hook=dict(phase1=3, by_epoch=False), hooks=[plant], optimizer=ADAMW
    )
    runner.train()
    assert plant.after[2]['step'] == 50  # still there, and not advanced, in phase I
    assert plant.after[3]['step'] == 1
    assert plant.after[3]['exp_avg'].abs().max() < 1
    assert plant.conv['step'] == 6


def test_no_optimizer_state_in_phase_1(tmp_path):
    runner = build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1), optimizer=ADAMW)
    runner.train()
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    names = [name for name, _ in runner.model.named_parameters()]
    with_state = {names[i] for i in checkpoint['optimizer']['state']}
    assert 'conv.0.weight' in with_state
    assert not any(name.startswith(('conv.2.', 'fc.1.')) for name in with_state)


class WatchEMA(Hook):
    """Keeps the averaged PWLU state and phases before each iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.states = {}
        self.phases = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        ema = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.module
        layers = pwlu_layers(ema)
        self.states[runner.iter] = {
            path: {k: v.clone() for k, v in m.state_dict().items()} for path, m in layers.items()
        }
        self.phases[runner.iter] = {m.phase for m in layers.values()}


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_copies_are_reset(tmp_path, update_buffers):
    watch, watch_ema = Watch(), WatchEMA()
    ema = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    runner = build_runner(
        tmp_path, 'epoch', 3, hook=dict(phase1=2), hooks=[ema, watch, watch_ema], val=True
    )
    runner.train()
    for iteration, phases in watch_ema.phases.items():
        assert phases == ({'collect'} if iteration < 6 else {'learn'})
    for path in watch.layers:
        for name, value in watch.states[6][path].items():
            assert torch.equal(watch_ema.states[6][path][name], value), name
        assert not torch.equal(watch_ema.states[8][path]['points'], watch.states[8][path]['points'])
    # After the validations, which swap the averaged parameters in and out:
    for layer in watch.layers.values():
        assert layer.phase == 'learn'
        assert int(layer.phase_id) == 0


def test_validation_runs_the_averaged_functions(tmp_path):
    """The swap of EMAHook changes parameters behind autograd's back: no table may go stale."""
    ema = dict(type='EMAHook', momentum=0.1)
    runner = build_runner(tmp_path, 'epoch', 3, hook=dict(phase1=1), hooks=[ema], val=True)
    runner.train()
    validated = runner.message_hub.get_scalar('val/output').current()
    hook = next(h for h in runner.hooks if isinstance(h, EMAHook))
    for model, same in ((hook.ema_model.module.eval(), True), (runner.model.eval(), False)):
        with torch.no_grad():
            outputs = [
                s['logits'].abs().sum().item()
                for batch in runner.val_dataloader
                for s in model.val_step(batch)
            ]
        assert bool(sum(outputs) == pytest.approx(validated, rel=1e-6)) is same


class CrossBounds(Hook):
    """Lets the bounds of a layer cross before each iteration."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for layer in pwlu_layers(runner.model).values():
            layer.right_bound.data[0] = layer.left_bound.data[0] - 1


def test_crossed_bounds_are_separated_in_phase_2(tmp_path):
    runner = build_runner(
        tmp_path, 'iter', 4, hook=dict(phase1=2, by_epoch=False), hooks=[CrossBounds()]
    )
    runner.train()
    for layer in pwlu_layers(runner.model).values():
        assert (layer.right_bound - layer.left_bound).min() > 0.99 * PWLU.MIN_WIDTH
        assert layer.rows('points').isfinite().all()


def test_gradient_accumulation_counts_iterations(tmp_path):
    watch = Watch()
    runner = build_runner(
        tmp_path,
        'iter',
        9,
        hook=dict(phase1=4, by_epoch=False),
        hooks=[watch],
        optim_wrapper=dict(accumulative_counts=3),
    )
    runner.train()
    assert watch.phases[3]['fc.1'] == 'collect'
    assert watch.phases[4]['fc.1'] == 'learn'
    state = watch.states
    # Steps are made after the iterations 2, 5 and 8; the second one comes after two of phase II.
    assert torch.equal(state[3]['fc.1']['points'], state[0]['fc.1']['points'])
    assert torch.equal(state[5]['fc.1']['points'], state[4]['fc.1']['points'])
    assert not torch.equal(state[6]['fc.1']['points'], state[4]['fc.1']['points'])


class TwoOptimizers(ToyModel):
    """Trained with one optimizer for each half."""

    def train_step(self, data, optim_wrapper):
        losses = self(**self.data_preprocessor(data, training=True), mode='loss')
        loss, log_vars = self.parse_losses(losses)
        first, second = optim_wrapper['conv'], optim_wrapper['fc']
        first.backward(loss)
        for wrapper in (first, second):
            wrapper.step()
        for wrapper in (first, second):
            wrapper.zero_grad()
        return log_vars


def test_several_optimizers(tmp_path):
    model = TwoOptimizers(dict(type='PWLU', num_intervals=8))
    wrapper = OptimWrapperDict(
        conv=OptimWrapper(torch.optim.SGD(model.conv.parameters(), 0.05, 0.9, weight_decay=0.1)),
        fc=OptimWrapper(torch.optim.AdamW(model.fc.parameters(), 0.01, weight_decay=0.1)),
    )
    watch = Watch()
    runner = build_runner(
        tmp_path,
        'iter',
        6,
        hook=dict(phase1=3, by_epoch=False),
        hooks=[watch],
        model=model,
        optim_wrapper=wrapper,
    )
    runner.param_schedulers = None
    runner.train()
    for path in ('conv.2', 'fc.1'):
        for name in PARAMETERS:
            assert torch.equal(watch.states[2][path][name], watch.states[0][path][name])
        assert not torch.equal(watch.states[5][path]['points'], watch.states[3][path]['points'])


def test_layer_without_input_waits_for_one(tmp_path):
    watch = Watch()
    runner = build_runner(
        tmp_path,
        'iter',
        8,
        hook=dict(phase1=2, by_epoch=False),
        hooks=[watch],
        model=dict(start_of_extra=4),
    )
    runner.train()
    extra = [watch.phases[i]['extra'] for i in range(8)]
    assert extra == ['collect'] * 5 + ['learn'] * 3
    assert watch.phases[2]['conv.2'] == 'learn'
    assert torch.equal(watch.states[4]['extra']['points'], watch.states[0]['extra']['points'])
    log = log_of(runner)
    assert log.count('no input has reached 1 PWLU layers in phase I') == 1
    assert 'realigned 1 PWLU layers, 1 channels' in log


def test_channel_without_variance_is_counted_and_survives(tmp_path):
    runner = build_runner(tmp_path, 'iter', 4, hook=dict(phase1=2, by_epoch=False))
    conv = runner.model.conv
    conv[1].weight.data[0] = 0
    conv[1].weight.register_hook(lambda grad: grad * torch.tensor([0.0, 1, 1, 1]))
    runner.train()
    assert '10 channels, 1 of them (almost) without variance' in log_of(runner)
    assert all(p.isfinite().all() for p in runner.model.parameters())


def test_loaded_checkpoints_keep_what_they_learned(tmp_path):
    build_runner(tmp_path / 'a', 'epoch', 3, hook=dict(phase1=2)).train()
    watch = Watch()
    runner = build_runner(
        tmp_path / 'b',
        'epoch',
        2,
        hook=dict(phase1=1),
        hooks=[watch],
        load_from=str(tmp_path / 'a/epoch_3.pth'),
    )
    runner.train()
    assert set(watch.phases[0].values()) == {'learn'}
    loaded = torch.load(tmp_path / 'a/epoch_3.pth', weights_only=False)['state_dict']
    assert torch.equal(watch.states[0]['fc.1']['points'], loaded['fc.1.points'])
    assert '2 PWLU layers of the loaded checkpoint are realigned already' in log_of(runner)


def test_resumed_run_trained_without_the_hook_is_left_alone(tmp_path):
    build_runner(tmp_path, 'epoch', 1).train()
    watch = Watch()
    runner = build_runner(tmp_path, 'epoch', 3, hook=dict(phase1=2), hooks=[watch], resume=True)
    runner.train()
    assert {phase for phases in watch.phases.values() for phase in phases.values()} == {'learn'}
    assert 'will not be realigned: conv.2, fc.1' in log_of(runner)


def test_frozen_layers_are_left_alone(tmp_path):
    runner = build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1))
    frozen = runner.model.conv[2].requires_grad_(False)
    runner.train()
    assert frozen.phase == 'learn'
    assert frozen.left_bound[0] == -3
    assert pwlu_layers(runner.model)['fc.1'].num_batches_tracked == ITERATIONS_PER_EPOCH


def test_optimizer_hooks_are_removed_after_training(tmp_path):
    runner = build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1))
    runner.train()
    optimizer = runner.optim_wrapper.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize('phase1', [0, -1, 2.5, '5', True, None])
def test_phase1_must_be_a_positive_integer(phase1):
    with pytest.raises(ValueError, match='phase1 must be a positive integer.*got'):
        PWLURealignHook(phase1=phase1)


@pytest.mark.parametrize(
    ('loop', 'hook', 'model', 'message'),
    [
        ('epoch', dict(phase1=3), {}, 'phase1=3 epochs of phase I, but the training has only 3'),
        ('epoch', dict(phase1=9, by_epoch=False), {}, 'only 9 iterations.*lower phase1'),
        ('iter', dict(phase1=3, by_epoch=False), {}, 'only 3 iterations'),
        (
            'iter',
            dict(phase1=2),
            {},
            r'set by_epoch=False and give phase1 in iterations \(2 epochs.*are 6 iterations\)',
        ),
        ('epoch', dict(phase1=1), dict(act_cfg=dict(type='ReLU')), 'the model has no PWLU'),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(
    tmp_path, loop, hook, model, message
):
    watch = Watch()
    runner = build_runner(tmp_path, loop, 3, hook=hook, model=model, hooks=[watch])
    own = next(h for h in runner.hooks if isinstance(h, PWLURealignHook))
    with pytest.raises(ValueError, match=message):
        own.check(runner)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not watch.states


def test_unresolved_layers_are_named(tmp_path):
    model = ToyModel(dict(type='PWLU'))
    model.lost = nn.ModuleDict({'act': PWLU()})
    runner = build_runner(tmp_path, 'epoch', 2, hook=dict(phase1=1), model=model)
    with pytest.raises(ValueError, match=r'1 PWLU layers .* lost\.act'):
        runner.train()
