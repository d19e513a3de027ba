# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The smoothness of learned activation functions as a loss of a training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmact.ops._arguments import number

from ._unwrapped import unwrapped


@HOOKS.register_module()
class ActivationRegularizerHook(Hook):
    """Adds ``weight`` times the smoothness of all activations that have one to a training's losses.

    An activation says how rough its function is in a method ``smoothness()``, as
    :meth:`mmact.activations.DiTAC.smoothness` does: theta^T Sigma^-1 theta, twice the negative
    logarithm of the smoothness prior, up to a constant. The sum over the activations whose
    parameters learn, times the weight, is one more loss, ``loss_smoothness``, in the log too.

    It joins the losses that the model's forward returns (``mode='loss'`` in training mode). So
    gradient accumulation, loss scaling, gradient clipping and distributed wrappers treat it as they
    treat every other loss: under DDP, where each rank adds the same, it belongs to the graph that
    the wrapper searches for unused parameters. It is computed in float32 at least, has no state,
    and so changes nothing for checkpoints.

    Args:
        weight: Factor, a finite number >= 0.

    Raises:
        ValueError: When built, if the weight is no such number. When training starts, if the model
            has no activation with a ``smoothness()`` and parameters that learn.
        RuntimeError: After the first iteration, if the model did not return its losses from
            ``forward(..., mode='loss')``, so that nothing could be added to them.

    Example:
        >>> custom_hooks = [dict(type='ActivationRegularizerHook', weight=1e-4)]
    """

    def __init__(self, weight: float) -> None:
        self.weight = number(type(self).__name__, 'weight', weight, 0)
        self._layers: list[Any] = []
        self._handle: RemovableHandle | None = None
        self._added = False

    def check(self, runner: Runner) -> None:
        """Finds the activations, and raises an error if there is none.

        Training begins with it; a tool can call it before.
        """
        self._layers = [
            module
            for module in unwrapped(runner.model).modules()
            if callable(getattr(module, 'smoothness', None))
            and any(p.requires_grad for p in module.parameters())
        ]
        if not self._layers:
            raise ValueError(
                'ActivationRegularizerHook: the model has no activation with a smoothness() and '
                "parameters that learn: set act_cfg=dict(type='DiTAC') in it, or remove the hook"
            )

    def before_train(self, runner: Runner) -> None:
        """Checks the settings and joins the model's losses."""
        self.check(runner)
        self._handle = unwrapped(runner.model).register_forward_hook(self._add, with_kwargs=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Makes sure, in the first iteration, that the loss has been added."""
        if not self._added:
            raise RuntimeError(
                f'ActivationRegularizerHook: {type(unwrapped(runner.model)).__name__} does not '
                "return a dict of losses from forward(..., mode='loss'), so the smoothness cannot "
                'be added to them: remove the hook'
            )

    def after_train(self, runner: Runner) -> None:
        """Leaves the model as it was."""
        if self._handle is not None:
            self._handle.remove()

    def _add(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], losses: Any) -> Any:
        if not model.training or kwargs.get('mode') != 'loss' or not isinstance(losses, dict):
            return losses
        self._added = True
        smoothness = sum(layer.smoothness() for layer in self._layers)
        return {**losses, 'loss_smoothness': self.weight * smoothness}
