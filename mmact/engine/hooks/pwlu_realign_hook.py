# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The two-phase learning of PWLU, driven from MMEngine's training loops.

Paper: Zhou, Zhu, Zhong, Learning specialized activation functions with the Piecewise Linear Unit,
ICCV 2021, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmact.activations import PWLU, unresolved
from mmact.ops._arguments import flag, integer

from ._unwrapped import unwrapped


@HOOKS.register_module()
class PWLURealignHook(Hook):
    """Statistics-based realignment of all PWLU layers that are trained (section 3.3).

    Phase I, the epochs or iterations 0 to ``phase1 - 1``: the layers are ReLU, collect the mean and
    standard deviation of their input (Eq. 5), and no optimizer changes their parameters, whatever
    its momentum, weight decay or parameter groups. Phase II begins at T' = ``phase1``, before the
    first forward of that epoch or iteration: the parameters are reset (Eq. 6), their optimizer
    state cleared and the copies that an EMAHook keeps set to the same values. After every optimizer
    step of phase II bounds that met or crossed are moved apart.

    The mean and standard deviation of a batch are those over all ranks, whose means and mean
    squares are pooled, so that they are right for maps of a few pixels too.

    The phase and the statistics live in the layers' buffers, so that a checkpoint holds all that
    matters. What is due is decided from them at the beginning of an epoch or iteration: a run that
    is killed and resumed at any time goes on exactly as one that never stopped. The checkpoint of
    epoch (iteration) T' is still a phase I checkpoint, and resuming from it realigns at once. A
    resumed run never starts phase I again; neither does one that loads (``load_from``) a model that
    was realigned before. Layers whose parameters are all frozen (``requires_grad=False``) are left
    alone.

    The hook's priority is ABOVE_NORMAL and must stay before that of EMAHook (NORMAL) and
    CheckpointHook (VERY_LOW), which store what this hook has averaged in the same iteration.

    Args:
        phase1: T', the length of phase I. The paper uses 5 epochs (section 4.1).
        by_epoch: Whether ``phase1`` counts epochs or iterations. Iterations are counted by the
            training loop, gradient accumulation or not. An IterBasedTrainLoop has no epochs and
            needs ``by_epoch=False``.

    Raises:
        ValueError: When built, if ``phase1`` is not a positive integer. When training starts, if
            the training ends before phase II, epochs are asked of an IterBasedTrainLoop, the model
            has no PWLU to train, or a PWLU does not know its number of channels.
        TypeError: When training starts, if an optimizer is not a ``torch.optim.Optimizer``.

    Example:
        >>> custom_hooks = [dict(type='PWLURealignHook', phase1=5)]
        >>> custom_hooks = [dict(type='PWLURealignHook', phase1=36650, by_epoch=False)]
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self, phase1: int = 5, by_epoch: bool = True) -> None:
        owner = type(self).__name__
        wanted = (
            'a positive integer (the number of epochs, or of iterations with by_epoch=False, of '
            'phase I)'
        )
        self.phase1 = integer(owner, 'phase1', phase1, 1, wanted=wanted)
        self.by_epoch = flag(owner, 'by_epoch', by_epoch)
        self._layers: dict[str, PWLU] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._warned = False

    def check(self, runner: Runner) -> None:
        """Finds the layers, and raises the errors above that do not need the optimizer.

        Training begins with it; a tool can call it before, as soon as the training loop is built.
        """
        self._check_length(runner)
        model = unwrapped(runner.model)
        self._layers = _trained_layers(model)

    def before_train(self, runner: Runner) -> None:
        """Checks the settings, begins phase I in a run that starts, and watches the optimizers."""
        self.check(runner)
        optimizers = _optimizers(runner.optim_wrapper)
        if runner.iter == 0:
            self._begin_collecting(runner)
        else:
            self._describe_resumed(runner)
        for layer in self._layers.values():
            layer.expect_realignment()
        for optimizer in optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(self._drop_gradients),
                optimizer.register_step_post_hook(self._separate_bounds),
            ]

    def before_train_epoch(self, runner: Runner) -> None:
        """Begins phase II when its epoch has come."""
        if self.by_epoch and runner.epoch >= self.phase1:
            self._realign(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begins phase II when its iteration has come."""
        if not self.by_epoch and runner.iter >= self.phase1:
            self._realign(runner)
        if get_world_size() > 1:
            for layer in self._in_phase('collect').values():
                layer.hold_statistics()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Counts the statistics of phase I, pooled over the ranks.

        At every iteration, because rank 0 alone writes checkpoints, and what it writes must hold
        for all ranks.
        """
        if get_world_size() > 1:
            _pool_statistics(list(self._in_phase('collect').values()))

    def after_train(self, runner: Runner) -> None:
        """Leaves the optimizers alone."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _check_length(self, runner: Runner) -> None:
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'PWLURealignHook: by_epoch=True counts epochs, which an IterBasedTrainLoop does '
                'not have: set by_epoch=False and give phase1 in iterations'
                + _epochs_in_iterations(runner, self.phase1)
            )
        unit, end = (
            ('epochs', runner.max_epochs) if self.by_epoch else ('iterations', runner.max_iters)
        )
        if self.phase1 >= end:
            raise ValueError(
                f'PWLURealignHook: phase1={self.phase1} {unit} of phase I, but the training has '
                f'only {end} {unit}, so that PWLU would never learn: lower phase1'
            )

    def _in_phase(self, phase: str) -> dict[str, PWLU]:
        return {path: layer for path, layer in self._layers.items() if layer.phase == phase}

    def _begin_collecting(self, runner: Runner) -> None:
        realigned = 0
        for path, layer in self._in_phase('learn').items():
            if int(layer.num_batches_tracked) > 0:
                realigned += 1
                continue
            layer.start_collecting()
            for copy in _averaged_copies(runner, path):
                copy.start_collecting()
        collecting = self._in_phase('collect')
        if collecting:
            unit = 'epochs' if self.by_epoch else 'iterations'
            runner.logger.info(
                f'PWLURealignHook: phase I, {len(collecting)} PWLU layers are ReLU and collect '
                f'statistics for {self.phase1} {unit}'
            )
        if realigned:
            runner.logger.info(
                f'PWLURealignHook: {realigned} PWLU layers of the loaded checkpoint are realigned '
                'already and go on learning'
            )

    def _describe_resumed(self, runner: Runner) -> None:
        never = [
            path
            for path, layer in self._in_phase('learn').items()
            if int(layer.num_batches_tracked) == 0
        ]
        if never:
            runner.logger.warning(
                f'PWLURealignHook: {len(never)} PWLU layers of the resumed checkpoint were trained '
                f'without this hook and will not be realigned: {_shortened(never)}'
            )

    def _realign(self, runner: Runner) -> None:
        collecting = self._in_phase('collect')
        if not collecting:
            return
        ready = {
            path: layer for path, layer in collecting.items() if int(layer.num_batches_tracked) > 0
        }
        missing = [path for path in collecting if path not in ready]
        if missing and not self._warned:
            self._warned = True
            runner.logger.warning(
                f'PWLURealignHook: no input has reached {len(missing)} PWLU layers in phase I; '
                f'they stay ReLU until one does: {_shortened(missing)}'
            )
        if not ready:
            return
        for layer in ready.values():
            layer.realign()
        parameters = [p for layer in ready.values() for p in layer.parameters(recurse=False)]
        _broadcast(parameters)
        for optimizer in _optimizers(runner.optim_wrapper):
            for parameter in parameters:
                optimizer.state.pop(parameter, None)
        for path, layer in ready.items():
            for copy in _averaged_copies(runner, path):
                copy.load_state_dict(layer.state_dict())
        done = f'{runner.epoch} epochs' if self.by_epoch else f'{runner.iter} iterations'
        channels = sum(layer.num_functions for layer in ready.values())
        at_minimum = sum(_at_minimum_width(layer) for layer in ready.values())
        runner.logger.info(
            f'PWLURealignHook: phase II after {done}: realigned {len(ready)} PWLU layers, '
            f'{channels} channels, {at_minimum} of them (almost) without variance and given the '
            'minimum width'
        )

    def _drop_gradients(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        # An optimizer skips a parameter without gradient; to one with a zero gradient it would
        # still apply weight decay and momentum.
        for layer in self._layers.values():
            if layer.phase != 'learn':
                for parameter in layer.parameters(recurse=False):
                    parameter.grad = None

    def _separate_bounds(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        for layer in self._layers.values():
            if layer.phase == 'learn':
                layer.separate_bounds_()


def _trained_layers(model: nn.Module) -> dict[str, PWLU]:
    """The PWLU layers with parameters that learn, by their path in the model."""
    open_layers = [path for path, layer in unresolved(model) if isinstance(layer, PWLU)]
    if open_layers:
        raise ValueError(
            f'PWLURealignHook: {len(open_layers)} PWLU layers do not know their channel count: '
            f'pass num_channels=... or num_groups=1 to them: {_shortened(open_layers)}'
        )
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, PWLU) and any(p.requires_grad for p in layer.parameters(recurse=False))
    }
    if not layers:
        raise ValueError(
            "PWLURealignHook: the model has no PWLU to train: set act_cfg=dict(type='PWLU') in it, "
            'or remove the hook'
        )
    return layers


def _shortened(paths: list[str], limit: int = 5) -> str:
    more = f' and {len(paths) - limit} more' if len(paths) > limit else ''
    return ', '.join(paths[:limit]) + more


def _optimizers(optim_wrapper: OptimWrapper) -> list[Optimizer]:
    wrappers: Iterable[OptimWrapper] = (
        optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    )
    optimizers = [wrapper.optimizer for wrapper in wrappers]
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                'PWLURealignHook: the optimizer must be a torch.optim.Optimizer, so that PWLU can '
                f'be kept out of its steps in phase I, got {type(optimizer).__name__}'
            )
    return optimizers


def _averaged_copies(runner: Runner, path: str) -> list[PWLU]:
    """The copies of one layer that EMA hooks keep."""
    return [
        hook.ema_model.module.get_submodule(path)
        for hook in runner.hooks
        if isinstance(hook, EMAHook)
    ]


@torch.no_grad()
def _pool_statistics(layers: list[PWLU]) -> None:
    """Counts what the layers hold: of each forward, over the ranks that have made it.

    Standard deviations of the ranks' own parts would be too small where a part is a few numbers, so
    means and mean squares are averaged; in double, as their difference cancels.
    """
    if not layers:
        return
    held = [layer.held_statistics() for layer in layers]
    device = layers[0].running_mean.device
    counts = torch.tensor([len(batches) for batches in held], device=device)
    all_reduce(counts, 'max')
    moments: list[Tensor] = []  # (3, G): the number of ranks, and the sums of the moments
    for layer, batches, count in zip(layers, held, counts.tolist(), strict=True):
        for mean, var in batches:
            mean, square = mean.double(), mean.double() ** 2 + var.double()
            good = mean.isfinite() & square.isfinite()
            moments.append(torch.where(good, torch.stack([good.double(), mean, square]), 0))
        empty = torch.zeros(3, layer.num_functions, dtype=torch.float64, device=device)
        moments += [empty] * (count - len(batches))
    if not moments:
        return
    total = torch.cat(moments, 1)
    all_reduce(total)
    ranks, means, squares = total
    means, squares = means / ranks, squares / ranks  # NaN where no rank has numbers
    pooled = torch.stack([means, (squares - means**2).clamp(min=0)])
    parts = iter(pooled.split([m.size(1) for m in moments], 1))
    for layer, count in zip(layers, counts.tolist(), strict=True):
        layer.count_statistics(tuple(next(parts)) for _ in range(count))


@torch.no_grad()
def _broadcast(parameters: list[nn.Parameter]) -> None:
    """Gives all ranks rank 0's values to the last bit, even where devices round differently."""
    if get_world_size() == 1:
        return
    values = torch.cat([p.flatten() for p in parameters])
    broadcast(values)
    for parameter, value in zip(
        parameters, values.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.copy_(value.view_as(parameter))


def _at_minimum_width(layer: PWLU) -> int:
    """Number of channels that were given a wider interval than Eq. 6 says."""
    width: Tensor = layer.right_bound.detach() - layer.left_bound.detach()
    return int((width > 6.006 * layer.running_std).sum())


def _epochs_in_iterations(runner: Runner, epochs: int) -> str:
    """Tells how many iterations so many epochs are, where the data loader allows to say so."""
    loader = runner.train_dataloader
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    if not batch or not hasattr(loader.dataset, '__len__'):
        return ''
    iterations = epochs * math.ceil(len(loader.dataset) / (batch * get_world_size()))
    return f' ({epochs} epochs of this data are {iterations} iterations)'
