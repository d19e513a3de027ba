# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Curves of learned activation functions: Figure 7 of the PWLU paper, Figure 3 of the PAU paper.

Papers: Zhou, Zhu, Zhong, Learning specialized activation functions with the Piecewise Linear Unit,
ICCV 2021, section 4.7; Molina, Schramowski, Kersting, Padé Activation Units: End-to-end Learning of
Flexible Activation Functions in Deep Networks, ICLR 2020, sections 3.2 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmact.activations import RPAU
from mmact.ops._arguments import one_of, positive

from .alignment import BOUNDS, check_samples, has_bounds, input_quantiles
from .layers import Modules, channel_count, evaluate, scalar_activations

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = 513
_HISTOGRAM_BINS = 60


def plot_functions(
    model: Modules,
    inputs: Mapping[str, Tensor] | None = None,
    num_functions: int = 5,
    max_layers: int = 16,
    title: str = 'Learned activation functions',
) -> Figure:
    """Draws the learned functions of each layer over the distribution of their input (Figure 7).

    Each panel shows some channels of one layer, chosen by how far they are from ReLU: the nearest,
    the farthest, and evenly spaced ranks between. Markers stand at their bounds, where the layer
    has some; ReLU is dashed. Behind, in grey, lies the input of the channels drawn: its histogram
    if it is given, else, for layers that keep running statistics, the normal distribution of that
    mean and standard deviation. Around the functions of RPAU, bands show all values that they take
    under the noise of training (Figure 3 of the PAU paper).

    Args:
        model: A model, whose scalar activations are drawn, or modules of any class by name.
        inputs: Samples of their inputs, (C, K), as in ``InputRecorder.samples``.
        num_functions: Number of functions in each panel (5 in the paper).
        max_layers: Number of panels; of more layers, evenly spaced ones are drawn.
        title: Title of the figure.

    Returns:
        A matplotlib Figure without a window; save it with ``figure.savefig(path)``.

    Raises:
        ValueError: If there is no layer to draw, or a count is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = scalar_activations(model)
    check_samples('plot_functions', 'inputs', inputs)
    one_of('plot_functions', 'title', title, str, 'a text')
    if not layers:
        raise ValueError('plot_functions: the model has no scalar activation of mmact to draw')
    num_functions, max_layers = positive(
        'plot_functions', num_functions=num_functions, max_layers=max_layers
    )
    names = [list(layers)[i] for i in _evenly(len(layers), max_layers)]
    if len(names) < len(layers):
        title += f' ({len(names)} of {len(layers)} layers)'

    columns = min(len(names), max(2, math.ceil(math.sqrt(len(names)))))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines + 0.8), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        samples = None if inputs is None else inputs.get(name)
        _draw_layer(axes, layers[name], samples, num_functions)
        axes.set_title(_panel_title(name, channel_count(layers[name])), fontsize=9)
    for axes in panels[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel('input', fontsize=8)
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel('output', fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    _draw_key(figure, layers.values(), inputs is not None)
    return figure


def _evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` evenly spaced numbers of 0 to count - 1, both ends among them."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def _panel_title(name: str, channels: int) -> str:
    name = name or 'model'
    if len(name) > 34:
        name = '...' + name[-31:]
    return name if channels == 1 else f'{name} ({channels} channels)'


def _draw_layer(axes: Axes, module: nn.Module, samples: Tensor | None, num_functions: int) -> None:
    chosen = _spread_channels(module, samples, num_functions)
    low, high = _visible_range(module, samples, chosen)
    grid = torch.linspace(low, high, _GRID).double()
    curves = evaluate(module, grid.expand(channel_count(module), -1))[chosen]
    _draw_input(axes, module, samples, chosen, (low, high))

    axes.plot(grid, grid.relu(), color='0.25', linestyle='--', linewidth=1, zorder=2)
    colors = [f'C{i}' for i in range(len(chosen))]
    bounds = _bounds(module)
    if bounds is not None:
        heights = evaluate(module, bounds)
    shown = curves
    if isinstance(module, RPAU):
        lowest, highest = (edge[chosen] for edge in noise_band(module, grid))
        for color, *edges in zip(colors, lowest, highest, strict=True):
            axes.fill_between(grid, *edges, color=color, alpha=0.4, linewidth=0, zorder=1)
        shown = torch.cat([curves, lowest, highest])
        shown = shown[shown.isfinite()]
    for color, channel, curve in zip(colors, chosen, curves, strict=True):
        label = 'all' if channel_count(module) == 1 else str(channel)
        # The noise of 1 % that is usual is narrow.
        width = 0.7 if isinstance(module, RPAU) else 1.4
        axes.plot(grid, curve, color=color, linewidth=width, label=label, zorder=3)
        if bounds is not None:
            axes.plot(
                bounds[channel], heights[channel], 'o', color=color, markersize=4.5,
                markeredgecolor='white', markeredgewidth=0.6, zorder=4,
            )  # fmt: skip
    axes.set_xlim(low, high)
    bottom, top = min(shown.min().item(), 0.0), max(shown.max().item(), high, 0.0)
    axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
    axes.locator_params(nbins=6)
    axes.tick_params(labelsize=7)
    axes.legend(
        title='channel', title_fontsize=6, fontsize=6, frameon=False, handlelength=1.2,
        labelspacing=0.2, loc='upper left', bbox_to_anchor=(1.0, 1.02), borderpad=0.1,
    )  # fmt: skip


def noise_band(layer: RPAU, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what an RPAU can give in training: all values under its noise (Eq. 3).

    Args:
        layer: The layer, with C functions.
        x: Points, (G,).

    Returns:
        The lowest and the highest value of each function, (C, G), float64; NaN where the
        denominator may be 0, as it may with version N.
    """
    x = x.detach().to('cpu', torch.float64).view(-1, 1)

    def interval(name: str, first_power: int) -> tuple[Tensor, Tensor]:
        factors = layer.rows(name).detach().to('cpu', torch.float64).unsqueeze(1)
        terms = factors * x ** torch.arange(first_power, first_power + factors.size(2))
        if name == 'denominator' and layer.version == 'A':
            terms = terms.abs()
        middle, spread = terms.sum(2), layer.alpha * terms.abs().sum(2)
        return middle - spread, middle + spread

    numerator = interval('numerator', 0)
    low, high = interval('denominator', 0 if layer.version == 'C' else 1)
    if layer.version in 'BC':  # of absolute values
        low, high = torch.maximum(low, -high).clamp(min=0), torch.maximum(-low, high)
    constant = 0.1 if layer.version == 'C' else 1.0
    low, high = constant + low, constant + high
    ends = torch.stack([p / q for p in numerator for q in (low, high)])
    ends[:, low * high <= 0] = torch.nan
    return ends.amin(0), ends.amax(0)


def _bounds(module: nn.Module) -> Tensor | None:
    """(C, 2) left and right bounds, or None for functions that have none."""
    if not has_bounds(module):
        return None
    bounds = [getattr(module, name).detach() for name in BOUNDS]
    return torch.stack(bounds, 1).cpu().double()


def _central_ranges(module: nn.Module, samples: Tensor | None) -> Tensor:
    """(C, 2) where each function is looked at: its bounds and the bulk of its input."""
    ranges = []
    bounds = _bounds(module)
    if bounds is not None:
        ranges.append(bounds)
    if samples is not None:
        ranges.append(input_quantiles(samples, (0.005, 0.995)))
    if not ranges:
        return torch.tensor([[-3.0, 3.0]]).double().expand(channel_count(module), 2)
    stacked = torch.stack(ranges)
    low = torch.where(stacked[..., 0].isnan(), torch.inf, stacked[..., 0]).amin(0)
    high = torch.where(stacked[..., 1].isnan(), -torch.inf, stacked[..., 1]).amax(0)
    empty = ~(low < high)
    return torch.stack([low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)], 1)


def _spread_channels(module: nn.Module, samples: Tensor | None, wanted: int) -> list[int]:
    """Channels from nearest to farthest from ReLU, relative to the width looked at."""
    low, high = _central_ranges(module, samples).unbind(1)
    share = torch.linspace(0, 1, _GRID).double()
    x = low.unsqueeze(1) + (high - low).unsqueeze(1) * share
    distance = (evaluate(module, x) - x.relu()).abs().mean(1) / (high - low)
    order = torch.argsort(distance.nan_to_num(torch.inf), stable=True)
    return [int(order[i]) for i in _evenly(len(order), wanted)]


def _visible_range(
    module: nn.Module, samples: Tensor | None, chosen: list[int]
) -> tuple[float, float]:
    ranges = _central_ranges(module, samples)[chosen]
    low, high = ranges[:, 0].min().item(), ranges[:, 1].max().item()
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _draw_input(
    axes: Axes,
    module: nn.Module,
    samples: Tensor | None,
    chosen: list[int],
    span: tuple[float, float],
) -> None:
    """The distribution of the input of the chosen channels, as a grey shape without a scale."""
    edges = torch.linspace(*span, _HISTOGRAM_BINS + 1).double()
    if samples is not None:
        values = samples[chosen]
        values = values[values.isfinite()].double()
        density = torch.histogram(values, edges)[0]
    elif _has_statistics(module):
        mean, std = (
            getattr(module, name).detach().cpu().double()[chosen].unsqueeze(1)
            for name in ('running_mean', 'running_std')
        )
        cumulative = torch.special.ndtr((edges - mean) / std.clamp(min=1e-6)).mean(0)
        density = cumulative.diff()
    else:
        return
    axes.stairs(
        0.87 * density.numpy() / max(density.max().item(), 1e-12),
        edges.numpy(),
        fill=True,
        color='0.88',
        zorder=0,
        transform=axes.get_xaxis_transform(),  # the height is a share of the panel's
    )


def _has_statistics(module: nn.Module) -> bool:
    return int(getattr(module, 'num_batches_tracked', 0)) > 0


def _draw_key(figure: Figure, modules: Iterable[nn.Module], measured: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    modules = list(modules)
    relu = Line2D([], [], color='0.25', linestyle='--', linewidth=1, label='ReLU')
    entries: list[Artist] = [relu]
    if any(has_bounds(module) for module in modules):
        entries.append(
            Line2D([], [], color='0.3', marker='o', markersize=4.5, linestyle='', label='bounds')
        )
    if any(isinstance(module, RPAU) for module in modules):
        entries.append(Patch(color='C0', alpha=0.4, lw=0, label='noise of training'))
    if measured or any(map(_has_statistics, modules)):
        label = 'input of these channels'
        if not measured:
            label += ' (normal distribution with their running mean and std)'
        entries.append(Patch(color='0.88', label=label))
    figure.legend(handles=entries, loc='outside lower center', ncols=len(entries), frameon=False)
