# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is an activation dynamic? Its output against its input: Figure 3 of the Dynamic ReLU paper.

Paper: Chen, Dai, Liu, Chen, Yuan, Liu, Dynamic ReLU, ECCV 2020, appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmact.activations import Activation
from mmact.activations.standard import STANDARD
from mmact.ops._arguments import matrix, one_of, optional, positive
from mmact.ops._arguments import module as checked_module
from mmact.ops._compat import unravel_index

from .functions import _evenly
from .layers import Modules
from .recorder import InputRecorder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Files of PyTorch and mmcv in which activations are defined.
_HOMES = ('activation', 'swish', 'hswish', 'hsigmoid')
_STANDARD = {record.cls for record in STANDARD.values()}
_BINS = 160
_SPREAD_BINS = 64


def activation_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Finds all activations of a model: mmact's, PyTorch's and mmcv's.

    Args:
        model: Any model.

    Returns:
        Modules by their path; what is inside an activation (the ReLU of a hyper function) is left
        out.
    """
    checked_module('activation_layers', model)
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, Activation):
            inside.update(module.modules())
        elif any(module.children()) or (
            type(module).__module__.rpartition('.')[2] not in _HOMES
            and type(module) not in _STANDARD
        ):
            continue
        found[path] = module
    return found


class PairRecorder(InputRecorder):
    """Keeps a sample of (input, output) pairs of activations while a ``with`` block runs.

    It only reads, and works for any module whose output has its input's shape, in place or not.
    ``samples`` are (2, K) with K <= ``max_values``: row 0 the inputs, row 1 the outputs, NaN where
    one was not finite. All calls have the same share, whatever the size of their input.

    Args:
        model: A model, whose :func:`activation_layers` are recorded, or modules by name.
        max_values: Number of pairs for each layer.
        channel: Take pairs of this channel only; None for all channels together.

    Raises:
        ValueError: If ``max_values`` is not positive; in a forward, if a layer has no such channel
            or its output another shape than its input.

    Example:
        >>> with PairRecorder(model, channel=3) as recorder:
        ...     model(images)
        >>> x, y = recorder.samples['backbone.act1']
    """

    def __init__(
        self, model: Modules, max_values: int = 100_000, channel: int | None = None
    ) -> None:
        super().__init__(
            model if isinstance(model, Mapping) else activation_layers(model), max_values
        )
        self.channel = optional(type(self).__name__, 'channel', channel, 0)
        self._pending: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    def start(self) -> None:
        """Begins to record; a ``with`` block does it on entry."""
        for name, module in self.modules.items():
            self._handles += [
                module.register_forward_pre_hook(self._before(name)),
                module.register_forward_hook(self._after(name)),
            ]

    def _before(self, name: str):
        def choose(module: nn.Module, args: tuple) -> None:
            if args[0].numel() == 0:
                return
            x = self._chosen_channel(name, module, args[0].detach())
            size = min(x.numel(), self.max_values)
            flat = torch.randint(x.numel(), (size,), generator=self._generator)
            index = unravel_index(flat.to(x.device), x.shape)
            # Now, and as a copy: the layer may overwrite its input.
            self._pending[name] = index, x[index]

        return choose

    def _after(self, name: str):
        def pair(module: nn.Module, args: tuple, output: Tensor) -> None:
            if args[0].numel() == 0:
                return
            if output.shape != args[0].shape:
                raise ValueError(
                    f'PairRecorder: layer {name!r} turns shape {tuple(args[0].shape)} into '
                    f'{tuple(output.shape)}; choose layers that keep the shape'
                )
            index, x = self._pending.pop(name)
            y = self._chosen_channel(name, module, output.detach())[index]
            self._add(name, torch.stack([x, y.to(x.dtype)]))

        return pair

    def _chosen_channel(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if self.channel is None:
            return x
        dim = getattr(module, 'channel_dim', None)
        dim = min(1, x.dim() - 1) if dim is None else dim
        if not 0 <= self.channel < x.size(dim):
            raise ValueError(
                f'PairRecorder: channel must be 0 to {x.size(dim) - 1} for layer {name!r}, '
                f'got {self.channel}'
            )
        return x.select(dim, self.channel)


def spread(pairs: Tensor) -> float:
    """Share of the output's variance that the input does not explain.

    Pairs are sorted by input and cut into up to 64 parts of equal count; in each a straight line is
    fitted. What remains beside the lines is the spread: close to 0 if the output is a function of
    the input. One channel of a static activation has none; all channels together have some as well
    if each channel has a function of its own.

    Args:
        pairs: Inputs and outputs, (2, K), as in ``PairRecorder.samples``; NaN is left out.

    Returns:
        A share in [0, 1]; 0 if the output is constant.

    Raises:
        ValueError: If fewer than 3 pairs are finite.
    """
    matrix('spread', 'pairs', pairs, 2)
    pairs = pairs[:, pairs.isfinite().all(0)].double()
    if pairs.size(1) < 3:
        raise ValueError(f'spread: needs at least 3 finite pairs, got {pairs.size(1)}')
    x, y = pairs[:, pairs[0].argsort()]
    total = (y - y.mean()).square().sum()
    left = 0.0
    for part_x, part_y in zip(
        x.tensor_split(min(_SPREAD_BINS, x.numel() // 3)),
        y.tensor_split(min(_SPREAD_BINS, x.numel() // 3)),
        strict=True,
    ):
        dx, dy = part_x - part_x.mean(), part_y - part_y.mean()
        slope = (dx * dy).sum() / dx.square().sum().clamp(min=1e-300)
        left += (dy - slope * dx).square().sum()
    return float(left / total) if total > 0 else 0.0


def plot_dynamics(
    samples: Mapping[str, Tensor],
    max_layers: int = 9,
    title: str = 'Input and output of activations',
) -> Figure:
    """Draws the output of activations against their input, as the paper's Figure 3.

    A static function shared by all channels is a curve; a dynamic one fills an area, because the
    same input gives different outputs in different images. Darker means more pairs (logarithmic).
    The red lines are y = x and y = -x. Each panel's title has the :func:`spread`.

    Args:
        samples: (2, K) inputs and outputs by name of the layer, as in ``PairRecorder.samples``.
        max_layers: Number of panels; of more layers, evenly spaced ones are drawn.
        title: Title of the figure.

    Returns:
        A matplotlib Figure without a window; save it with ``figure.savefig(path)``.

    Raises:
        ValueError: If there is nothing to draw, or ``max_layers`` is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    owner = 'plot_dynamics'
    one_of(owner, 'samples', samples, Mapping, 'a mapping of names to pairs')
    one_of(owner, 'title', title, str, 'a text')
    (max_layers,) = positive(owner, max_layers=max_layers)
    for value in samples.values():
        matrix(owner, 'samples', value, 2)
    if not samples:
        raise ValueError('plot_dynamics: samples are empty, no layer received an input')
    names = [list(samples)[i] for i in _evenly(len(samples), max_layers)]
    if len(names) < len(samples):
        title += f' ({len(names)} of {len(samples)} layers)'
    columns = math.ceil(math.sqrt(len(names)))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(3.3 * columns, 6.0), 3.1 * lines + 0.6), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        _draw_pairs(axes, samples[name])
        shown = name if len(name) <= 40 else f'...{name[-37:]}'
        axes.set_title(f'{shown or "model"}\nspread {spread(samples[name]):.1%}', fontsize=8)
    for axes in panels[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel('input x', fontsize=8)
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel('output y', fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure


def _draw_pairs(axes: Axes, pairs: Tensor) -> None:
    from matplotlib.colors import LogNorm

    pairs = pairs[:, pairs.isfinite().all(0)].double()
    limits = []
    for values in pairs:
        # The few farthest would make everything else small.
        low, high = (float(values.quantile(q)) for q in (0.0005, 0.9995))
        margin = 0.05 * max(high - low, 1e-6)
        limits.append((min(low, 0.0) - margin, max(high, 0.0) + margin))
    x, y = pairs.numpy()
    axes.hist2d(x, y, bins=_BINS, range=limits, cmap='Blues', norm=LogNorm(vmin=0.2), cmin=1)
    for slope in (1, -1):
        axes.axline((0, 0), slope=slope, color='tab:red', linewidth=0.9)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.tick_params(labelsize=7)
