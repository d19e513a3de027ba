# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The smoothness of DiTAC as a loss: value, gradients, and what trainings do with them."""

import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from processes import Started, finish
from torch import nn
from toy_training import SGD, ToyModel, build_runner

from mmact.activations import DiTAC
from mmact.engine import ActivationRegularizerHook

WEIGHT = 1e-3
ACT = dict(type='DiTAC', num_cells=4, init='prior')
# Plain steps of size 1: what they change is the gradient.
STEP = dict(type='SGD', lr=1.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Model(ToyModel):
    """Names its loss as segmentors and detectors do: MMEngine calls the sum 'loss'."""

    def forward(self, inputs, labels, mode):
        losses = super().forward(inputs, labels, mode)
        return dict(loss_ce=losses['loss']) if mode == 'loss' else losses


class Record(Hook):
    """Keeps the model before each iteration, its batch, and what the log says of it."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.models, self.batches, self.logs = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.models.append(deepcopy(getattr(runner.model, 'module', runner.model)))
        self.batches.append(data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        self.logs.append(
            {name: scalars[f'train/{name}'].current() for name in ('loss', 'loss_smoothness')}
        )

    def after_train(self, runner):
        self.models.append(deepcopy(getattr(runner.model, 'module', runner.model)))


def train(work_dir, length=2, weight=WEIGHT, record=None, **kwargs):
    hooks = [dict(type='ActivationRegularizerHook', weight=weight)]
    kwargs = {'optimizer': STEP, 'model': Model(ACT), **kwargs}
    runner = build_runner(
        work_dir, 'iter', length, hooks=[*hooks, *([record] if record else [])], **kwargs
    )
    runner.param_schedulers = None
    runner.train()
    return runner


def smoothness(model: nn.Module) -> torch.Tensor:
    return sum(m.smoothness() for m in model.modules() if isinstance(m, DiTAC))


def expected_gradients(model: nn.Module, batch: dict, context=None) -> list[torch.Tensor]:
    """Autograd's, of loss + weight * smoothness on a copy that no hook knows."""
    model = deepcopy(model)
    model._forward_hooks.clear()
    with context or torch.autocast('cpu', enabled=False):
        loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss_ce']
    (loss + WEIGHT * smoothness(model)).backward()
    return [p.grad for p in model.parameters()]


def changes(before: nn.Module, after: nn.Module) -> list[torch.Tensor]:
    return [
        p.detach() - q.detach()
        for p, q in zip(before.parameters(), after.parameters(), strict=True)
    ]


def test_value_in_the_log_and_gradients(tmp_path):
    record = Record()
    train(tmp_path, record=record)
    for i, log in enumerate(record.logs):
        value = WEIGHT * smoothness(record.models[i]).item()
        assert value > 1e-3
        assert log['loss_smoothness'] == pytest.approx(value, rel=1e-6)
        model = deepcopy(record.models[i])
        model._forward_hooks.clear()
        data = model.data_preprocessor(record.batches[i], True)
        loss = model(**data, mode='loss')['loss_ce'].item()
        assert log['loss'] == pytest.approx(loss + value, rel=1e-6)
        moved = changes(*record.models[i : i + 2])
        # A difference of float32 parameters: 4.3e-8 is the largest error seen.
        torch.testing.assert_close(
            moved, expected_gradients(record.models[i], record.batches[i]), rtol=1e-5, atol=1e-6
        )


def test_gradient_accumulation_adds_it_once_per_step(tmp_path):
    record = Record()
    train(tmp_path, 4, record=record, optim_wrapper=dict(accumulative_counts=2))
    for start in (0, 2):
        gradients = zip(
            *(expected_gradients(record.models[i], record.batches[i]) for i in (start, start + 1)),
            strict=True,
        )
        mean = [(a + b) / 2 for a, b in gradients]
        torch.testing.assert_close(
            changes(record.models[start], record.models[start + 2]), mean, rtol=1e-5, atol=1e-6
        )


class CPUAmp(AmpOptimWrapper):
    """MMEngine's wrapper, bf16 on the CPU, with the loss scaling that it has on GPUs."""

    def __init__(self, **kwargs) -> None:
        # Its own constructor wants an accelerator.
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


def test_mixed_precision_with_loss_scaling(tmp_path):
    record = Record()
    model = Model(ACT)
    wrapper = CPUAmp(optimizer=torch.optim.SGD(model.parameters(), 1.0))
    train(tmp_path, record=record, model=model, optim_wrapper=wrapper)
    value = WEIGHT * smoothness(record.models[0]).item()
    # In float32, so as close as without mixed precision.
    assert record.logs[0]['loss_smoothness'] == pytest.approx(value, rel=1e-6)
    context = torch.autocast('cpu', torch.bfloat16)
    torch.testing.assert_close(
        changes(*record.models[:2]),
        expected_gradients(record.models[0], record.batches[0], context),
        rtol=1e-5,
        atol=1e-6,
    )


def test_resumed_training_is_bit_identical(tmp_path):
    whole = train(tmp_path / 'whole', 4, optimizer=SGD)
    checkpoint = str(tmp_path / 'whole/iter_2.pth')
    resumed = train(tmp_path / 'b', 4, optimizer=SGD, resume=True, load_from=checkpoint)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_smoother_functions_and_nothing_left_behind(tmp_path):
    model = Model(ACT)
    before = smoothness(model).item()
    state = list(model.state_dict())
    kwargs = dict(optimizer=dict(type='Adam', lr=0.01), val=True, model=model)
    runner = train(tmp_path, 30, weight=10.0, **kwargs)
    assert smoothness(model).item() < 0.5 * before
    assert not model._forward_hooks
    assert list(runner.model.state_dict()) == state


def test_frozen_functions_are_left_out(tmp_path):
    model = Model(ACT)
    model.fc[1].requires_grad_(False)
    record = Record()
    train(tmp_path, 1, record=record, model=model)
    value = WEIGHT * record.models[0].conv[2].smoothness().item()
    assert record.logs[0]['loss_smoothness'] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize('weight', [-1, float('nan'), float('inf'), '1', True, None])
def test_weight_must_be_a_number_from_0_on(weight):
    with pytest.raises(ValueError, match='weight must be a finite number >= 0, got'):
        ActivationRegularizerHook(weight)


def test_model_without_smoothness_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no activation with a smoothness\(\).*type='DiTAC'"):
        train(tmp_path, model=Model(dict(type='ReLU')))


class OwnStep(Model):
    """Computes its loss without forward."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, log_vars = self.parse_losses(Model.forward(self, **data, mode='loss'))
        optim_wrapper.update_params(loss)
        return log_vars


def test_model_whose_losses_cannot_be_reached_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match='OwnStep does not return a dict of losses from forward'):
        train(tmp_path, model=OwnStep(ACT))


def test_two_processes_one_layer_unused(tmp_path):
    """Each rank adds the same, and DDP's average is once that, also for a layer without input."""
    finish(
        *(
            Started(
                tmp_path / f'output{rank}', distributed_main, tmp_path,
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
            )
            for rank in range(2)
        )
    )  # fmt: skip
    ranks = [torch.load(tmp_path / f'rank{r}.pt', weights_only=False) for r in range(2)]
    assert not torch.equal(ranks[0]['batch']['inputs'][0], ranks[1]['batch']['inputs'][0])
    assert ranks[0]['log']['loss_smoothness'] == pytest.approx(ranks[0]['value'], rel=1e-6)
    gradients = [r['expected'] for r in ranks]
    mean = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    for rank in ranks:
        torch.testing.assert_close(rank['moved'], mean, rtol=1e-5, atol=1e-6)


def distributed_main(work_dir: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{work_dir}/rendezvous', rank=rank, world_size=2
    )
    record = Record()
    model = Model(ACT, start_of_extra=9)
    model.extra = DiTAC(num_cells=4, init='prior')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        device_ids=None,
        find_unused_parameters=True,
    )
    train(
        work_dir,
        1,
        record=record,
        model=model,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
    )
    torch.save(
        dict(
            log=record.logs[0],
            batch=record.batches[0],
            value=WEIGHT * smoothness(record.models[0]).item(),
            expected=expected_gradients(record.models[0], record.batches[0]),
            moved=changes(*record.models),
        ),
        work_dir / f'rank{rank}.pt',
    )
