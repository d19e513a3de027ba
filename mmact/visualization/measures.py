# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Figures that mean the same for every activation: how far it moved, what it does not use."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmact.activations.base import _surrounding_channels

from .alignment import input_quantiles
from .dynamics import activation_layers
from .families import Family, _dim, family
from .layers import Modules
from .recorder import InputRecorder

#: What a recorder has seen, to be sent to other processes.
Recorded = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
# They change the shape, or take more than one number without being an activation of a channel.
_OTHERS = (nn.GLU, nn.LogSoftmax, nn.Softmax, nn.Softmax2d, nn.Softmin)
# An output that varies by less than this share of its input's range is constant.
_CONSTANT = 1e-4
_MAX_CONDITIONS = 16


def watchable(model: Modules) -> dict[str, nn.Module]:
    """Finds all activations that are functions of one number, given what else they see.

    Args:
        model: A model; those of mmact, PyTorch and mmcv are found, but for softmax and GLU. A
            mapping of names to modules is returned as it is.

    Returns:
        Modules by their path in the model. Those that do not know their number of channels are left
        out.
    """
    if isinstance(model, Mapping):
        return dict(model)
    return {
        path: module
        for path, module in activation_layers(model).items()
        if not isinstance(module, _OTHERS) and getattr(module, 'resolved', True)
    }


class FunctionRecorder(InputRecorder):
    """Samples what report and measures need of all activations while a ``with`` block runs.

    Other than :class:`InputRecorder` it takes layers that are not elementwise, too, and has samples
    of each channel also where channels share a function, if the layer or its neighbours tell where
    the channels are. It only reads.

    Args:
        model: A model, whose :func:`watchable` activations are recorded, or modules by name.
        max_values: Size of the sample for each channel.
        starts: The layers at the start of training, by name, to compare with.
        layers: Names of those of the model's layers that are recorded; None for all.

    Attributes:
        samples: Inputs by name of the layer, (C, K), K <= max_values; C is the number of functions
            where there are no channels of their own.
        extremes: Smallest and largest input of each row of the samples, (C, 2), of all values.
        conditions: What distinguishes a layer's functions beside their input, (S, n, P), S <= 16:
            see :class:`mmact.visualization.families.Family`.
        start_conditions: The same of the layers at the start, for the same inputs.
    """

    def __init__(
        self,
        model: Modules,
        max_values: int = 256,
        starts: Mapping[str, nn.Module] | None = None,
        layers: Iterable[str] | None = None,
    ) -> None:
        chosen = watchable(model)
        if layers is not None:
            chosen = {name: chosen[name] for name in layers}
        super().__init__(chosen, max_values)
        self.starts = dict(starts or {})
        self.extremes: dict[str, Tensor] = {}
        self.conditions: dict[str, Tensor] = {}
        self.start_conditions: dict[str, Tensor] = {}
        self._families = {name: family(module) for name, module in self.modules.items()}
        self._calls: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}
        if isinstance(model, nn.Module):
            for path in self.modules:
                parent, _, name = path.rpartition('.')
                found = _surrounding_channels(model.get_submodule(parent), name) if path else None
                if found is not None:
                    self._places[path] = found

    def _hook(self, name: str):
        def record(module: nn.Module, args: tuple) -> None:
            if args[0].numel() == 0:
                return
            with torch.no_grad():
                self._add_channels(name, self._rows(name, module, args[0].detach()))
                # The start chooses the same pixels.
                seed = int(torch.randint(2**31, (), generator=self._generator))
                self._add_conditions(
                    name, *(f.conditions(args, torch.Generator().manual_seed(seed)) for f in both)
                )

        both = [self._families[name]]
        if name in self.starts:
            start = copy.deepcopy(self.starts[name]).to(_device(self.modules[name]))
            both.append(family(start.train(self.modules[name].training)))
        return record

    def _rows(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """A view of x by channels, or by functions where channels cannot be told: (C, ...)."""
        rows = x.unsqueeze(0)
        if self._families[name].count > 1 or getattr(module, 'num_channels', None) is not None:
            rows = x.movedim(_dim(module, x), 0)
        elif name in self._places:
            channels, dim = self._places[name]
            if -x.dim() <= dim < x.dim() and x.size(dim) == channels:
                rows = x.movedim(dim, 0)
        return rows if rows.dim() > 1 else rows.unsqueeze(1)

    def _add_channels(self, name: str, rows: Tensor) -> None:
        before = self.samples.get(name)
        if before is not None and before.size(0) != rows.size(0):
            # Used at places of different widths: the same number is not the same channel there.
            count = self._families[name].count
            self._places.pop(name, None)
            self.samples[name] = self._thinned(before.reshape(count, -1), self.max_values)
            self.extremes[name] = _joined(self.extremes[name], count)
            self._seen[name] *= before.size(0) // count
            rows = rows.reshape(count, -1)
        self._add(name, rows)
        dims = tuple(range(1, rows.dim()))
        ends = torch.stack([rows.amin(dims), rows.amax(dims)], 1).float().cpu()
        if name in self.extremes:
            ends = torch.cat([self.extremes[name], ends], 1)
        self.extremes[name] = _joined(ends, ends.size(0))

    def function_samples(self) -> dict[str, Tensor]:
        """Returns the samples sorted by function, (n, K'), whatever shares one."""
        return {
            name: samples.reshape(self._families[name].count, -1)
            for name, samples in self.samples.items()
        }

    def join(self, others: Iterable[Recorded]) -> None:
        """Takes in what recorders in other processes have seen of the same layers.

        Args:
            others: Their :meth:`recorded`.
        """
        for samples, extremes, conditions, start_conditions in others:
            for name, values in samples.items():
                if name not in self.samples:
                    self.samples[name], self.extremes[name] = values, extremes[name]
                    continue
                if values.size(0) != self.samples[name].size(0):
                    # By channel in one process and by function in the other.
                    count = self._families[name].count
                    values, self.samples[name] = (
                        part.reshape(count, -1) for part in (values, self.samples[name])
                    )
                    self.extremes[name] = _joined(self.extremes[name], count)
                    extremes[name] = _joined(extremes[name], count)
                self.samples[name] = torch.cat([self.samples[name], values], 1)
                both = torch.cat([self.extremes[name], extremes[name]], 1)
                self.extremes[name] = _joined(both, both.size(0))
            for own, new in (
                (self.conditions, conditions),
                (self.start_conditions, start_conditions),
            ):
                for name, values in new.items():
                    if name in own and values.size(-1):
                        values = torch.cat([own[name], values])
                    own[name] = values

    def recorded(self) -> Recorded:
        """Returns samples, extremes, conditions and start_conditions."""
        return self.samples, self.extremes, self.conditions, self.start_conditions

    def _add_conditions(self, name: str, *new: Tensor) -> None:
        """Every call has the same chance that its conditions stay, and so has each of them."""
        call = self._calls[name] = self._calls.get(name, 0) + 1
        order = torch.randperm(new[0].size(0), generator=self._generator)
        replaced = torch.rand(_MAX_CONDITIONS, generator=self._generator) < 1 / call
        for kept, values in zip((self.conditions, self.start_conditions), new, strict=False):
            old = kept.get(name)
            if old is None or values.size(-1) == 0:
                kept[name] = values[order[:_MAX_CONDITIONS]]
            elif old.size(0) < _MAX_CONDITIONS:
                kept[name] = torch.cat([old, values[order]])[:_MAX_CONDITIONS]
            else:
                index = order[torch.arange(_MAX_CONDITIONS) % len(order)]
                kept[name] = torch.where(replaced.view(-1, 1, 1), values[index], old)


def _joined(extremes: Tensor, rows: int) -> Tensor:
    """The smallest and the largest of extremes, (rows, 2); NaN is left out."""
    flat = extremes.reshape(rows, -1)
    known = flat.isfinite()
    low = torch.where(known, flat, torch.inf).amin(1)
    high = torch.where(known, flat, -torch.inf).amax(1)
    ends = torch.stack([low, high], 1)
    return torch.where(ends.isfinite(), ends, torch.nan)


@dataclass
class Measures:
    """Figures of one layer; each is (C,), float64, NaN where it cannot be told.

    Args:
        distance: Root mean square of function minus function at the start, over the inputs, in
            standard deviations of the input.
        outside: Share of the inputs outside of the bounds.
        iou: Alignment of bounds and input (Eq. 7 of the PWLU paper).
        constant: 1 for a channel whose output is the same for all inputs, else 0.
    """

    distance: Tensor
    outside: Tensor
    iou: Tensor
    constant: Tensor


def measure(
    functions: Family,
    samples: Tensor,
    start: Family | None = None,
    extremes: Tensor | None = None,
    conditions: Tensor | None = None,
    start_conditions: Tensor | None = None,
) -> Measures:
    """Measures a layer, channel by channel.

    Args:
        functions: The layer.
        samples: Inputs, (C, K), C being a multiple of the number of functions; NaN is left out.
        start: The layer at the start of training.
        extremes: Smallest and largest input, (C, 2), of values that need not be in the sample.
        conditions: Of the data, (S, n, P); None for those at rest.
        start_conditions: The same of the layer at the start.

    Returns:
        The figures. A layer without parameters cannot move: its distance is NaN.
    """
    channels = samples.size(0)
    x = samples.double()
    y = _by_channel(functions, x, conditions)
    learns = any(True for _ in functions.module.parameters())
    if start is not None and learns:
        off = (y - _by_channel(start, x, start_conditions)).square().nanmean((0, 2)).sqrt()
        spread = (x - x.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()
        distance = torch.where(spread > 0, off / spread, torch.nan)
    else:
        distance = x.new_full((channels,), torch.nan)

    bounds = functions.bounds()
    outside = iou = x.new_full((channels,), torch.nan)
    if bounds is not None:
        left, right = bounds.repeat_interleave(channels // bounds.size(0), 0).unbind(1)
        beyond = (x < left.unsqueeze(1)) | (x > right.unsqueeze(1))
        outside = torch.where(x.isnan(), torch.nan, beyond.double()).nanmean(1)
        low, high = input_quantiles(samples).unbind(1)
        right = torch.maximum(right, left)
        common = (torch.minimum(right, high) - torch.maximum(left, low)).clamp(min=0)
        union = (right - left) + (high - low) - common
        iou = torch.where(union > 0, common / union, 0.0)
        iou = torch.where(low.isnan(), torch.nan, iou)

    ends = x if extremes is None else torch.cat([x, extremes.double()], 1)
    seen = y if extremes is None else _by_channel(functions, ends, conditions)
    height = _range(seen.transpose(0, 1).flatten(1))
    constant = (height <= _CONSTANT * _range(ends)).double()
    constant = torch.where(height.isfinite(), constant, torch.nan)
    return Measures(distance, outside, iou, constant)


def _by_channel(functions: Family, x: Tensor, conditions: Tensor | None) -> Tensor:
    """(S, C, K): the functions at inputs (C, K) of channels, several of which may share one."""
    y = functions.evaluate(x.reshape(functions.count, -1), conditions)
    return y.reshape(y.size(0), *x.shape)


def _range(values: Tensor) -> Tensor:
    """Largest minus smallest of each row, NaN left out; NaN for a row of nothing else."""
    low = values.nan_to_num(torch.inf, torch.inf, -torch.inf).amin(1)
    high = values.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(1)
    return torch.where(low <= high, high - low, torch.nan)


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in module.parameters()), torch.device('cpu'))


def scalars(measures: Iterable[Measures]) -> dict[str, float]:
    """Summarises the measures of all layers, for curves over a training.

    Args:
        measures: Of each layer.

    Returns:
        ``activation_NAME``, the mean over layers of the mean over channels, and
        ``activation_NAME_worst``, that of the layer that has most; NAME is distance, outside or
        constant. What no layer has is left out.
    """
    rows = list(measures)
    found: dict[str, float] = {}
    for name in ('distance', 'outside', 'constant'):
        means = [getattr(row, name).nanmean().item() for row in rows]
        means = [mean for mean in means if mean == mean]
        if means:
            found[f'activation_{name}'] = sum(means) / len(means)
            found[f'activation_{name}_worst'] = max(means)
    return found
