# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the activation functions while they are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmact.ops._arguments import flag, positive
from mmact.visualization import InputRecorder, plot_alignment, plot_functions, scalar_activations
from mmact.visualization.alignment import layer_ious

from ._unwrapped import unwrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@HOOKS.register_module()
class LearnedActivationHook(Hook):
    """Hands pictures of the learned activation functions to MMEngine's visualizer.

    Every ``interval`` epochs or iterations, and after the last iteration of the training, it writes

    - the image ``learned_activations``: see :func:`mmact.visualization.plot_functions`;
    - where layers have bounds, the image ``activation_alignment`` (see
      :func:`mmact.visualization.plot_alignment`) and the scalar ``activation_iou``, the mean IOU of
      Eq. 7 of the PWLU paper over all channels;

    all with the number of iterations done as their step. LocalVisBackend stores images under
    ``vis_data/vis_image``. The input distributions are those of the training batch of that
    iteration, on rank 0; at other iterations the hook costs nothing. It only looks: a training with
    it gives bit-identical parameters.

    Args:
        interval: Number of epochs or iterations between pictures.
        by_epoch: Whether ``interval`` counts epochs or iterations. An IterBasedTrainLoop has no
            epochs and needs ``by_epoch=False``.
        max_layers: Largest number of layers drawn; of more, evenly spaced ones.
        num_functions: Number of channels drawn of each layer.

    Raises:
        ValueError: When built, if a number is not a positive integer. When training starts, if
            epochs are asked of an IterBasedTrainLoop or the model has nothing to draw.

    Example:
        >>> custom_hooks = [dict(type='LearnedActivationHook', interval=1)]
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_layers: int = 16,
        num_functions: int = 5,
    ) -> None:
        owner = type(self).__name__
        self.interval, self.max_layers, self.num_functions = positive(
            owner, interval=interval, max_layers=max_layers, num_functions=num_functions
        )
        self.by_epoch = flag(owner, 'by_epoch', by_epoch)
        self._layers: dict[str, nn.Module] = {}
        self._recorder: InputRecorder | None = None

    def check(self, runner: Runner) -> None:
        """Finds the layers, and raises the errors above.

        Training begins with it; a tool can call it before, as soon as the training loop is built.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'LearnedActivationHook: by_epoch=True counts epochs, which an IterBasedTrainLoop '
                'does not have: set by_epoch=False and give interval in iterations'
            )
        model = unwrapped(runner.model)
        self._layers = scalar_activations(model)
        if not self._layers:
            raise ValueError(
                'LearnedActivationHook: the model has no learned activation to draw: set act_cfg '
                'in it, or remove the hook'
            )

    def before_train(self, runner: Runner) -> None:
        """Checks the settings."""
        self.check(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begins to record where a picture is due after this iteration."""
        if self._due(runner, batch_idx) and is_main_process():
            self._recorder = InputRecorder(self._layers)
            self._recorder.start()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draws."""
        if self._recorder is None:
            return
        self._recorder.stop()
        inputs, self._recorder = self._recorder.samples, None
        step = runner.iter + 1
        figure = plot_functions(
            self._layers,
            inputs,
            num_functions=self.num_functions,
            max_layers=self.max_layers,
            title=f'Learned activation functions, iteration {step}',
        )
        runner.visualizer.add_image('learned_activations', _pixels(figure), step)
        ious = layer_ious(self._layers, inputs)
        if ious:
            mean = torch.cat(list(ious.values())).mean().item()
            runner.visualizer.add_scalars({'activation_iou': mean}, step=step)
            figure = plot_alignment(
                self._layers, inputs, title=f'Alignment of bounds and input, iteration {step}'
            )
            runner.visualizer.add_image('activation_alignment', _pixels(figure), step)

    def _due(self, runner: Runner, batch_idx: int) -> bool:
        if self.is_last_train_iter(runner):
            return True
        if self.by_epoch:
            return self.every_n_epochs(runner, self.interval) and self.end_of_epoch(
                runner.train_dataloader, batch_idx
            )
        return self.every_n_train_iters(runner, self.interval)


def _pixels(figure: Figure) -> np.ndarray:
    """The figure as an RGB image, (H, W, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
