# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny model with PWLU, trained by a real MMEngine Runner within a second or so.

``main`` is for tests that need processes: to be killed, or of one distributed training.
"""

import argparse
import itertools
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmact.activations import PWLU
from mmact.engine import LearnedActivationHook

torch.set_num_threads(1)

ITERATIONS_PER_EPOCH = 3
BATCH_SIZE = 4
_names = itertools.count()

SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01)
ADAMW = dict(type='AdamW', lr=0.01, weight_decay=0.1)


class ToyDataset(Dataset):
    """Images of noise, with labels that depend on them."""

    def __init__(self, length: int = ITERATIONS_PER_EPOCH * BATCH_SIZE) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(length, 2, 5, 5, generator=generator)
        self.labels = (self.images.mean((1, 2, 3)) > 0).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=self.images[index], labels=self.labels[index])


class NoisyDataset(ToyDataset):
    """Images with an augmentation that draws from all generators."""

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        noise = random.random() + np.random.random() + torch.rand(())  # noqa: NPY002
        return dict(item, inputs=item['inputs'] + noise)


@MODELS.register_module()
class ToyModel(BaseModel):
    """A PWLU after a convolution and one after a linear layer.

    Args:
        act_cfg: Config of both activations.
        start_of_extra: Number of the training iteration from which on a third one is used.
        dropout: Whether to drop elements, and shift the logits by numbers of all generators.
    """

    def __init__(
        self, act_cfg: dict, start_of_extra: int | None = None, dropout: bool = False
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), MODELS.build(act_cfg)
        )
        self.fc = nn.Sequential(nn.Linear(4, 6), MODELS.build(act_cfg), nn.Linear(6, 2))
        self.start_of_extra = start_of_extra
        self.iteration = 0
        if start_of_extra is not None:
            self.extra = PWLU(num_groups=1)

    def forward(self, inputs, labels, mode):
        x = self.conv(inputs)
        if mode == 'loss' and self.start_of_extra is not None:
            if self.iteration >= self.start_of_extra:
                x = self.extra(x)
            self.iteration += 1
        x = x.mean((2, 3))
        if mode == 'loss' and self.dropout:
            x = F.dropout(x, 0.3) + random.random() + np.random.random()  # noqa: NPY002
        logits = self.fc(x)
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, labels))
        return [
            dict(logits=logit, label=label) for logit, label in zip(logits, labels, strict=True)
        ]


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Sum of the outputs: tells to the last bit which parameters were validated."""

    def process(self, data_batch, data_samples):
        self.results += [s['logits'].abs().sum().item() for s in data_samples]

    def compute_metrics(self, results):
        return dict(output=sum(results))


class Watch(Hook):
    """Keeps the state of all PWLU layers before each iteration, and the input of each forward."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.states: dict[int, dict[str, dict[str, torch.Tensor]]] = {}
        self.phases: dict[int, dict[str, str]] = {}
        self.inputs: dict[str, list[torch.Tensor]] = {}

    def before_train(self, runner):
        self.layers = pwlu_layers(runner.model)
        for path, layer in self.layers.items():
            layer.register_forward_pre_hook(self._keep(path))

    def _keep(self, path):
        def hook(module, args):
            if module.training:
                self.inputs.setdefault(path, []).append(args[0].detach().clone())

        return hook

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states[runner.iter] = {
            path: {k: v.clone() for k, v in layer.state_dict().items()}
            for path, layer in self.layers.items()
        }
        self.phases[runner.iter] = {path: layer.phase for path, layer in self.layers.items()}


class KillHook(Hook):
    """Kills the process as ``kill -9`` does, in the middle of an iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def pwlu_layers(model: nn.Module) -> dict[str, PWLU]:
    """The PWLU layers by their path, with or without a distributed wrapper."""
    model = getattr(model, 'module', model)
    return {path: m for path, m in model.named_modules() if isinstance(m, PWLU)}


def build_runner(
    work_dir: str | Path,
    loop: str = 'epoch',
    length: int = 4,
    hook: dict | None = None,
    optimizer: dict = SGD,
    optim_wrapper: dict | None = None,
    model: dict | None = None,
    hooks: list | None = None,
    val: bool = False,
    checkpoint_interval: int = 1,
    checkpoint: dict | None = None,
    loader: dict | None = None,
    train_loader: dict | None = None,
    seed: int | None = 0,
    launcher: str = 'none',
    param_scheduler: list | None = None,
    **kwargs,
) -> Runner:
    """A runner whose training lasts ``length`` epochs, or iterations with loop='iter'.

    Args:
        work_dir: Where logs and checkpoints go.
        loop: 'epoch' or 'iter'.
        length: Length of the training.
        hook: Arguments of PWLURealignHook; None to train without it.
        optimizer: Config of the optimizer.
        optim_wrapper: Further fields of the optimizer wrapper, or the wrapper itself.
        model: Further arguments of ToyModel.
        hooks: Further hooks.
        val: Whether to validate after each epoch (third iteration with loop='iter').
        checkpoint_interval: Epochs or iterations between checkpoints.
        checkpoint: Further arguments of the checkpoint hook.
        loader: Further arguments of both data loaders.
        train_loader: Further arguments of that of the training.
        seed: Seed of the training.
        launcher: 'none' or 'pytorch'.
        param_scheduler: Configs of the schedulers; None for a warm-up.
        kwargs: Further arguments of the Runner (resume, load_from).
    """
    by_epoch = loop == 'epoch'
    data = dict(
        batch_size=BATCH_SIZE,
        num_workers=0,
        dataset=ToyDataset(),
        collate_fn=dict(type='default_collate'),
    )
    data.update(loader or {})
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=length, val_interval=1)
    else:
        train_cfg = dict(by_epoch=False, max_iters=length, val_interval=ITERATIONS_PER_EPOCH)
    custom_hooks = list(hooks or [])
    if hook is not None:
        custom_hooks.append(dict(type='PWLURealignHook', **hook))
    if optim_wrapper is None or isinstance(optim_wrapper, dict):
        optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, **(optim_wrapper or {}))
    val_args = dict(
        val_dataloader=dict(**data, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=dict(type='ToyMetric'),
    )
    return Runner(
        model=model
        if isinstance(model, nn.Module)
        else dict(
            type='ToyModel', **{'act_cfg': dict(type='PWLU', num_intervals=8), **(model or {})}
        ),
        work_dir=str(work_dir),
        train_dataloader={**data, 'sampler': sampler, **(train_loader or {})},
        train_cfg=train_cfg,
        optim_wrapper=optim_wrapper,
        param_scheduler=param_scheduler
        or dict(type='LinearLR', start_factor=0.5, end=5, by_epoch=False),
        **(val_args if val else {}),
        default_hooks=dict(
            checkpoint={
                **dict(type='CheckpointHook', interval=checkpoint_interval, by_epoch=by_epoch),
                **(checkpoint or {}),
            },
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=custom_hooks,
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        randomness=dict(seed=seed, deterministic=True),
        launcher=launcher,
        # MMEngine keeps its message hub and logger by this name, for as long as the process lives.
        experiment_name=f'toy_{os.getpid()}_{next(_names)}',
        default_scope='mmengine',
        **kwargs,
    )


def main(*words: object) -> None:
    """Trains as the words of a command line say."""
    parser = argparse.ArgumentParser()
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--loop', default='epoch')
    parser.add_argument('--length', type=int, default=4)
    parser.add_argument('--phase1', type=int, default=2)
    parser.add_argument('--kill-at', type=int)
    parser.add_argument('--resume', action='store_true')
    parser.add_argument('--draw', action='store_true')
    parser.add_argument('--distributed', metavar='RENDEZVOUS_FILE')
    args = parser.parse_args([str(word) for word in words])

    kwargs = {}
    if args.distributed:
        rank, world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{args.distributed}', rank=rank, world_size=world_size
        )
        kwargs = dict(
            launcher='pytorch',
            cfg=dict(
                model_wrapper_cfg=dict(
                    type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
                )
            ),
        )
    watch = Watch()
    hooks = [watch, dict(type='EMAHook', momentum=0.1)]
    if args.kill_at is not None:
        hooks.append(KillHook(args.kill_at))
    draw = LearnedActivationHook(interval=100)
    if args.draw:
        hooks.append(draw)
    runner = build_runner(
        args.work_dir,
        loop=args.loop,
        length=args.length,
        hook=dict(phase1=args.phase1, by_epoch=args.loop == 'epoch'),
        hooks=hooks,
        resume=args.resume,
        val=not args.distributed,
        **kwargs,
    )
    runner.train()
    if args.distributed:
        torch.save(
            dict(
                states=watch.states,
                inputs=watch.inputs,
                phases=watch.phases,
                final=runner.model.module.state_dict(),
                recorded=draw._last and draw._last.recorded(),
            ),
            args.work_dir / f'rank{rank}.pt',
        )
