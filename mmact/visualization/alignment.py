# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Coverage of the input by the bounds of learned functions: Eq. 7, Figure 6 of the PWLU paper.

Paper: Zhou, Zhu, Zhong, Learning specialized activation functions with the Piecewise Linear Unit,
ICCV 2021, section 4.4. What the paper prints as x_p0.05 and x_p0.95 are the 5 % and 95 % quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmact.ops._arguments import dense_floats, matrix, number, one_of, sequence

from .layers import Modules, scalar_activations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20


#: Names of the bounds of a learned region.
BOUNDS = ('left_bound', 'right_bound')


def input_quantiles(samples: Tensor, levels: tuple[float, ...] = (0.05, 0.95)) -> Tensor:
    """Quantiles of the input of each channel.

    Args:
        samples: Input values, (C, K); NaN is left out.
        levels: Quantile levels in [0, 1]; the default are those of Eq. 7.

    Returns:
        Tensor of shape (C, len(levels)); NaN for a channel without values.
    """
    matrix('input_quantiles', 'samples', samples)
    wanted = 'numbers from 0 to 1'
    levels = tuple(
        number('input_quantiles', 'levels', level, 0, 1, wanted=wanted)
        for level in sequence('input_quantiles', 'levels', levels, wanted)
    )
    if samples.numel() == 0:
        return samples.new_full((samples.size(0), len(levels)), torch.nan, dtype=torch.float64)
    return torch.nanquantile(samples.double(), torch.tensor(levels).double(), dim=1).T


@torch.no_grad()
def alignment_iou(module: nn.Module, quantiles: Tensor) -> Tensor:
    """Intersection over union of a layer's bounds and the main part of its input (Eq. 7).

    1 means that the region which learns in detail is the region where the input lies, 0 that they
    do not meet.

    Args:
        module: A learned activation with ``left_bound`` and ``right_bound``, (C,) each.
        quantiles: 5 % and 95 % quantile of each channel's input, (C, 2), as
            :func:`input_quantiles` gives them.

    Returns:
        IOU of each channel, (C,), float64, in [0, 1]; NaN where a quantile is NaN.

    Raises:
        TypeError: If the module has no bounds.
        ValueError: If ``quantiles`` is not (C, 2).
    """
    if not has_bounds(module):
        raise TypeError(
            f'alignment_iou: module {type(module).__name__} has no left_bound and right_bound'
        )
    dense_floats('alignment_iou', 'quantiles', quantiles)
    left, right = (getattr(module, name).detach().cpu().double() for name in BOUNDS)
    if quantiles.shape != (left.numel(), 2):
        raise ValueError(
            f'alignment_iou: quantiles must have shape ({left.numel()}, 2), got '
            f'{tuple(quantiles.shape)}'
        )
    low, high = quantiles.cpu().double().unbind(1)
    right = torch.maximum(right, left)
    common = (torch.minimum(right, high) - torch.maximum(left, low)).clamp(min=0)
    union = (right - left) + (high - low) - common
    # Both empty: a channel whose input is constant at bounds that met is neither good nor bad.
    iou = torch.where(union > 0, common / union, 0.0)
    return torch.where(quantiles.cpu().isnan().any(1), torch.nan, iou)


def check_samples(owner: str, name: str, samples: Mapping[str, Tensor] | None) -> None:
    """Raises a TypeError or ValueError unless samples are (C, K) by name, or None."""
    if samples is not None:
        one_of(owner, name, samples, Mapping, 'a mapping of names to samples')
        for value in samples.values():
            matrix(owner, name, value)


def has_bounds(module: nn.Module) -> bool:
    """Whether a module has a learned region [left_bound, right_bound] for each channel."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in BOUNDS)


def layer_ious(model: Modules, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """IOU of Eq. 7 of all channels of all layers that have bounds and received an input.

    Args:
        model: A model, or modules by name.
        inputs: Samples of their inputs, (C, K), as in ``InputRecorder.samples``.

    Returns:
        Finite IOUs by name of the layer; layers without any are left out.
    """
    ious = {}
    for name, module in scalar_activations(model).items():
        if name in inputs and has_bounds(module):
            iou = alignment_iou(module, input_quantiles(inputs[name]))
            if iou.isfinite().any():
                ious[name] = iou[iou.isfinite()]
    return ious


def plot_alignment(
    model: Modules,
    inputs: Mapping[str, Tensor],
    title: str = 'Alignment of bounds and input',
) -> Figure:
    """Draws the distribution of the alignment IOU (Eq. 7) over channels, as the paper's Figure 6.

    At the left the histogram over all channels of all layers; at the right one row for each layer,
    in which darker means more of its channels, with the layer's mean marked.

    Args:
        model: A model, or modules by name; those with bounds are drawn.
        inputs: Samples of their inputs, (C, K), as in ``InputRecorder.samples``.
        title: Title of the figure.

    Returns:
        A matplotlib Figure without a window; save it with ``figure.savefig(path)``.

    Raises:
        ValueError: If no layer with bounds has a recorded input.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    one_of('plot_alignment', 'title', title, str, 'a text')
    one_of('plot_alignment', 'inputs', inputs, Mapping, 'a mapping of names to samples')
    check_samples('plot_alignment', 'inputs', inputs)
    ious = layer_ious(model, inputs)
    if not ious:
        raise ValueError(
            'plot_alignment: no layer with bounds has a recorded input (no layer of model that '
            'has bounds is in inputs)'
        )
    everything = torch.cat(list(ious.values()))
    edges = torch.linspace(0, 1, _BINS + 1).double()
    rows = torch.stack([torch.histogram(iou, edges)[0] / iou.numel() for iou in ious.values()])

    height = max(3.6, 1.6 + 0.22 * len(ious))
    figure = Figure(figsize=(11, height), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    # The histogram keeps its height, however many layers stand beside it.
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1, 1.5), height_ratios=(3.6, max(height - 3.6, 1e-3))
    )
    whole = figure.add_subplot(grid[0, 0] if height > 5 else grid[:, 0])
    layers = figure.add_subplot(grid[:, 1])

    share = torch.histogram(everything, edges)[0] / everything.numel()
    whole.stairs(share.numpy(), edges.numpy(), fill=True, color='tab:blue', alpha=0.75)
    mean = everything.mean().item()
    whole.axvline(mean, color='tab:red', linewidth=1.2, label=f'mean {mean:.2f}')
    whole.set(xlim=(0, 1), xlabel='IOU (Eq. 7)', ylabel='share of channels')
    whole.set_title(f'all {everything.numel()} channels', fontsize=10)
    whole.legend(frameon=False)

    mesh = layers.pcolormesh(
        edges.numpy(), range(len(ious) + 1), rows.numpy(), cmap='Blues', vmin=0
    )
    means = [iou.mean().item() for iou in ious.values()]
    centers = [row + 0.5 for row in range(len(ious))]
    layers.scatter(means, centers, marker='|', color='tab:red')
    layers.set_yticks(centers, [f'{n} ({iou.numel()})' for n, iou in ious.items()], fontsize=7)
    layers.invert_yaxis()
    layers.set(xlim=(0, 1), xlabel='IOU (Eq. 7)')
    layers.set_title('each layer (its number of channels), mean in red', fontsize=10)
    figure.colorbar(mesh, ax=layers, label='share of channels')
    return figure
