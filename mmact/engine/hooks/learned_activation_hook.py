# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures and figures of the activation functions while they are learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn

from mmact.activations import Activation
from mmact.ops._arguments import flag, positive
from mmact.visualization import (
    FunctionRecorder,
    Snapshot,
    checkpoints_of,
    family,
    layers_in,
    measure,
    plot_alignment,
    plot_functions,
    read_checkpoint,
    scalar_activations,
    watchable,
    write_report,
)
from mmact.visualization.alignment import layer_ious
from mmact.visualization.measures import scalars
from mmact.visualization.snapshots import START_FILE, label_of, state_of

from ._unwrapped import unwrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VALUES = 1024  # inputs of each channel, of all processes together


@HOOKS.register_module()
class LearnedActivationHook(Hook):
    """Hands figures and pictures of the learned activations to MMEngine's visualizer.

    Every ``interval`` epochs or iterations, and after the last iteration of the training, it writes

    - the scalars ``activation_distance``, how far the functions are from where they started (root
      mean square over their inputs, in standard deviations of the input), ``activation_outside``,
      the share of inputs outside of the bounds of layers that have some, and
      ``activation_constant``, the share of channels that always put out the same: each the mean
      over layers, and with ``_worst`` that of the layer that has most;
    - the image ``learned_activations``: see :func:`mmact.visualization.plot_functions`; elementwise
      activations are drawn;
    - where layers have bounds, the image ``activation_alignment`` (see
      :func:`mmact.visualization.plot_alignment`) and the scalar ``activation_iou``, the mean IOU of
      Eq. 7 of the PWLU paper over all channels;

    all with the number of iterations done as their step. LocalVisBackend stores images under
    ``vis_data/vis_image``. The inputs are those of the training batch of that iteration, of all
    processes; rank 0 draws. At other iterations the hook costs nothing. It only looks: a training
    with it gives bit-identical parameters.

    As a training begins, the activations are kept in ``learned_activations_start.pth`` in the
    working directory. At its end a page about all of them with their history over the checkpoints,
    ``learned_activations.html``, is written there: see :func:`mmact.visualization.write_report`.

    Args:
        interval: Number of epochs or iterations between pictures.
        by_epoch: Whether ``interval`` counts epochs or iterations. An IterBasedTrainLoop has no
            epochs and needs ``by_epoch=False``.
        max_layers: Largest number of layers drawn; of more, evenly spaced ones.
        num_functions: Number of channels drawn of each layer.
        report: Whether to write the page at the end.

    Raises:
        ValueError: When built, if a number is not a positive integer. When training starts, if
            epochs are asked of an IterBasedTrainLoop or the model has nothing to draw.

    Example:
        >>> custom_hooks = [dict(type='LearnedActivationHook', interval=1)]
    """

    priority = 'LOW'
    #: Name of the page.
    PAGE = 'learned_activations.html'

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_layers: int = 16,
        num_functions: int = 5,
        report: bool = True,
    ) -> None:
        owner = type(self).__name__
        self.interval, self.max_layers, self.num_functions = positive(
            owner, interval=interval, max_layers=max_layers, num_functions=num_functions
        )
        self.by_epoch = flag(owner, 'by_epoch', by_epoch)
        self.report = flag(owner, 'report', report)
        self._layers: dict[str, nn.Module] = {}
        self._starts: dict[str, nn.Module] = {}
        self._recorder: FunctionRecorder | None = None
        self._last: FunctionRecorder | None = None

    def check(self, runner: Runner) -> None:
        """Finds the layers, and raises the errors above.

        Training begins with it; a tool can call it before, as soon as the training loop is built.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'LearnedActivationHook: by_epoch=True counts epochs, which an IterBasedTrainLoop '
                'does not have: set by_epoch=False and give interval in iterations'
            )
        self._layers = {
            path: layer
            for path, layer in watchable(unwrapped(runner.model)).items()
            if isinstance(layer, Activation) or any(True for _ in layer.parameters())
        }
        if not self._layers:
            raise ValueError(
                'LearnedActivationHook: the model has no learned activation to draw: set act_cfg '
                'in it, or remove the hook'
            )

    def before_train(self, runner: Runner) -> None:
        """Checks the settings, and keeps the functions as they start."""
        self.check(runner)
        file = Path(runner.work_dir) / START_FILE
        if runner.iter == 0:
            self._starts = {
                path: copy.deepcopy(layer).cpu() for path, layer in self._layers.items()
            }
            if is_main_process():
                torch.save({'state_dict': state_of(self._starts), 'meta': {'iter': 0}}, file)
        elif file.is_file():
            self._starts = layers_in(read_checkpoint(file)[0], self._layers)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begins to record where a picture is due after this iteration."""
        if self._due(runner, batch_idx):
            self._recorder = FunctionRecorder(
                unwrapped(runner.model),
                max_values=-(-_VALUES // get_world_size()),
                starts=self._starts,
                layers=self._layers,
            )
            self._recorder.start()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Measures and draws."""
        if self._recorder is None:
            return
        self._recorder.stop()
        recorder, self._recorder = self._recorder, None
        parts = gather_object(recorder.recorded()) if get_world_size() > 1 else None
        if not is_main_process():
            return
        recorder.join((parts or [])[1:])
        self._last = recorder
        step = runner.iter + 1
        runner.visualizer.add_scalars(scalars(self._measures(recorder)), step=step)
        self._draw(runner, recorder.function_samples(), step)

    def _measures(self, recorder: FunctionRecorder) -> list:
        return [
            measure(
                family(layer),
                recorder.samples[path],
                family(self._starts[path]) if path in self._starts else None,
                recorder.extremes[path],
                recorder.conditions[path],
                recorder.start_conditions.get(path),
            )
            for path, layer in self._layers.items()
            if path in recorder.samples
        ]

    def _draw(self, runner: Runner, inputs: dict[str, Tensor], step: int) -> None:
        layers = scalar_activations(unwrapped(runner.model))
        if not layers:
            return
        figure = plot_functions(
            layers,
            inputs,
            num_functions=self.num_functions,
            max_layers=self.max_layers,
            title=f'Learned activation functions, iteration {step}',
        )
        runner.visualizer.add_image('learned_activations', _pixels(figure), step)
        ious = layer_ious(layers, inputs)
        if ious:
            mean = torch.cat(list(ious.values())).mean().item()
            runner.visualizer.add_scalars({'activation_iou': mean}, step=step)
            figure = plot_alignment(
                layers, inputs, title=f'Alignment of bounds and input, iteration {step}'
            )
            runner.visualizer.add_image('activation_alignment', _pixels(figure), step)

    def after_train(self, runner: Runner) -> None:
        """Writes the page."""
        if not (self.report and is_main_process()) or self._last is None:
            return
        path = Path(runner.work_dir) / self.PAGE
        try:
            write_report(
                path,
                self._layers,
                title=f'Activation functions of {Path(runner.work_dir).resolve().name}',
                label=f'iter {runner.iter}',
                recorded=self._last,
                start=self._starts,
                history=self._history(runner),
                notes=['Inputs are those of the last training batch.'],
            )
        except Exception as error:
            # The training is done, and must not be lost for a page that a tool can write later.
            runner.logger.warning(
                f'LearnedActivationHook: {path} could not be written: {error}. '
                f'tools/analysis_tools/report.py {runner.work_dir} tries it again'
            )
            return
        runner.logger.info(f'The learned activation functions: {path}')

    def _history(self, runner: Runner) -> list[Snapshot]:
        """The start, and the checkpoints of this training that are still there."""
        history = [Snapshot('start', self._starts)] if self._starts else []
        try:
            files = checkpoints_of(runner.work_dir)
        except FileNotFoundError:
            return history
        done = {'epoch': runner.epoch, 'iter': runner.iter}
        for file in files:
            kind, _, number = file.stem.partition('_')
            if int(number) < done[kind]:
                state_dict = read_checkpoint(file)[0]
                history.append(Snapshot(label_of(file), layers_in(state_dict, self._layers)))
        return history

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
