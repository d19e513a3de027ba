# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""One HTML page with all activations of a network: where they are, and how they came there."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmact.activations import list_activations

from .alignment import input_quantiles
from .families import Family, family
from .functions import _evenly
from .layers import Modules
from .measures import FunctionRecorder, Measures, measure, watchable

_TEMPLATE = Path(__file__).with_name('report.html')
_POINTS = 65  # of a curve
_PAST_POINTS = 33  # of a curve in the history: every second of these
_BINS = 32
_MEMBERS = 8
_MAX_FUNCTIONS = 30_000
_MAX_PAST = 8_000_000  # numbers in the history
_PAST_VALUES = 64  # inputs over which distances in the history are measured


@dataclass
class Snapshot:
    """The activations of a network at one time.

    Args:
        label: A word for the time, such as ``'iteration 1000'``.
        layers: Modules by their path.
    """

    label: str
    layers: Mapping[str, nn.Module]


def write_report(
    path: str | Path,
    model: Modules,
    *,
    title: str = 'Activation functions',
    label: str = 'now',
    recorded: FunctionRecorder | None = None,
    start: Mapping[str, nn.Module] | None = None,
    history: Sequence[Snapshot] = (),
    compare: Snapshot | None = None,
    notes: Iterable[str] = (),
    track: Callable[[list], Iterable] = iter,
) -> Path:
    """Writes one HTML file that shows the functions of all activations; it needs no network.

    Args:
        path: File to write.
        model: A model, or its activations by name.
        title: Heading of the page.
        label: A word for the time that ``model`` is of.
        recorded: What a :class:`FunctionRecorder` has seen of it. Without, inputs are assumed:
            normal where a layer has running statistics, else uniform.
        start: The layers at the start of training, by the same names, as far as they are known.
        history: Earlier times, the oldest first.
        compare: Another network of layers of the same names.
        notes: Sentences for the head of the page.
        track: Given the list of layers it returns an iterable of them, and may show progress.

    Returns:
        The path.

    Raises:
        ValueError: If there is no activation.
    """
    layers = watchable(model)
    if not layers:
        raise ValueError('write_report: the model has no activation that could be shown')
    start = {} if start is None else start
    blob = _Blob()
    total = sum(family(module).count for module in layers.values())
    room = max(1, _MAX_PAST // (min(total, _MAX_FUNCTIONS) * _PAST_POINTS))
    history = [history[i] for i in _evenly(len(history), room)]
    entries, all_measures = [], []
    for name, module in track(list(layers.items())):
        layer = _Layer(name, module, recorded, start.get(name))
        entries.append(layer.entry(blob, min(1.0, _MAX_FUNCTIONS / total), history, compare))
        all_measures.append(layer.measures)
    meta = dict(
        title=title,
        about=' '.join(notes),
        short=_in_short(total, all_measures, recorded is not None),
        times=[snapshot.label for snapshot in history] + [label],
        other=compare.label if compare else None,
        layers=entries,
    )
    text = _TEMPLATE.read_text(encoding='utf-8')
    # A function, because backslashes mean something in a replacement's text.
    parts = {'@META@': _json(meta), '@BLOB@': blob.text()}
    text = re.sub('@META@|@BLOB@', lambda match: parts[match[0]], text)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


class _Layer:
    """What the page has of one activation."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        recorded: FunctionRecorder | None,
        start: nn.Module | None,
    ) -> None:
        self.name, self.module = name, module
        self.functions = family(module)
        self.start = None if start is None else family(start)
        if self.start is not None and self.start.count != self.functions.count:
            self.start = None
        samples = None if recorded is None else recorded.samples.get(name)
        self.measured = samples is not None
        self.samples = self._assumed() if samples is None else samples
        self.channels = self.samples.size(0)
        extremes = self.conditions = self.start_conditions = None
        if recorded is not None and self.measured:
            extremes = recorded.extremes[name]
            self.conditions = recorded.conditions[name]
            self.start_conditions = recorded.start_conditions.get(name)
        self.measures = measure(
            self.functions,
            self.samples,
            self.start,
            extremes,
            self.conditions,
            self.start_conditions,
        )
        if not self.measured:
            # What no data has shown is not said.
            unknown = torch.full_like(self.measures.outside, math.nan)
            self.measures = Measures(self.measures.distance, unknown, unknown, unknown)
        self.low, self.high = self._range()

    def _assumed(self) -> Tensor:
        """Inputs of each function where none were recorded, (n, K)."""
        levels = (torch.arange(_PAST_VALUES).double() + 0.5) / _PAST_VALUES
        if int(getattr(self.module, 'num_batches_tracked', 0)) > 0:
            mean, std = (
                getattr(self.module, key).detach().cpu().double().unsqueeze(1)
                for key in ('running_mean', 'running_std')
            )
            return mean + std * torch.special.ndtri(levels)
        return (6 * levels - 3).expand(self.functions.count, -1)

    def _range(self) -> tuple[float, float]:
        """The part of the axis that the layer's pictures show."""
        rows = self.samples.reshape(self.functions.count, -1)
        ends = [input_quantiles(rows, (0.005, 0.995))]
        bounds = self.functions.bounds()
        if bounds is not None:
            ends.append(bounds)
        low, high = (torch.cat(ends)[:, side] for side in (0, 1))
        low, high = low[low.isfinite()], high[high.isfinite()]
        if not (low.numel() and high.numel()):
            return -3.0, 3.0
        # Most functions: one that is far off would leave no room for the others.
        a, b = low.quantile(0.03).item(), high.quantile(0.97).item()
        if not a < b:
            a, b = a - 1, a + 1
        margin = 0.06 * (b - a)
        return a - margin, b + margin

    def _curves(self, functions: Family, conditions: Tensor | None, points: int) -> Tensor:
        """(S, n, points)."""
        grid = torch.linspace(self.low, self.high, points).double()
        return functions.evaluate(grid.expand(functions.count, -1), conditions)

    def _per_function(self, values: Tensor) -> Tensor:
        return values.reshape(self.functions.count, -1).nanmean(1)

    def entry(
        self, blob: _Blob, share: float, history: Sequence[Snapshot], compare: Snapshot | None
    ) -> dict[str, Any]:
        """Returns the layer as the page has it; arrays go into the blob."""
        n = self.functions.count
        kept: Any = slice(None)
        entry: dict[str, Any] = dict(
            name=self.name,
            type=type(self.module).__name__,
            description=_DESCRIPTIONS.get(type(self.module).__name__, 'an activation'),
            functions=n,
            channels=self._shown_channels(),
            parameters=sum(p.numel() for p in self.module.parameters()),
            x=[self.low, self.high],
            measured=self.measured,
            summary=self._summary(),
        )
        distance = self._per_function(self.measures.distance)
        if share < 1 and n > 64:
            order = distance.nan_to_num(0).argsort(stable=True)
            chosen = [int(order[i]) for i in _evenly(n, max(64, int(n * share)))]
            kept = torch.tensor(sorted(chosen))
            entry['numbers'] = kept.tolist()
        curves = self._curves(self.functions, self.conditions, _POINTS)[:, kept]
        entry['curves'] = blob.add(curves.mean(0), 16)
        if curves.size(0) > 1:
            entry['members'] = blob.add(curves[_evenly(curves.size(0), _MEMBERS), :, ::2], 8)
        if self.start is not None and any(True for _ in self.module.parameters()):
            first = self._curves(self.start, self.start_conditions, _POINTS)[:, kept].mean(0)
            same = torch.allclose(first, first[:1].expand_as(first), atol=1e-6, equal_nan=True)
            entry['start'] = blob.add(first[:1] if same else first, 16)
        entry |= {
            key: blob.add(self._per_function(getattr(self.measures, key))[kept], 16)
            for key in ('distance', 'outside', 'constant')
            if getattr(self.measures, key).isfinite().any()
        }
        entry['hist'] = blob.add(self._histogram()[kept], 8)
        bounds = self.functions.bounds()
        if bounds is not None:
            entry['bounds'] = blob.add(bounds[kept], 16)
        if self.functions.names:
            entry['conditions'] = self._conditions()
        self._add_past(entry, blob, kept, history)
        self._add_other(entry, blob, kept, compare)
        return entry

    def _shown_channels(self) -> int:
        """Number of channels, 0 where the layer does not tell."""
        own = getattr(self.module, 'num_channels', None)
        if own or self.functions.count > 1:
            return own or max(self.channels, self.functions.count)
        return self.channels if self.measured and self.channels > 1 else 0

    def _summary(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for key in ('distance', 'outside', 'iou', 'constant'):
            values = getattr(self.measures, key)
            values = values[values.isfinite()]
            found[key] = values.mean().item() if values.numel() else None
            found[f'{key}_worst'] = values.max().item() if values.numel() else None
        return found

    def _histogram(self) -> Tensor:
        """(n, bins), the largest bin of each function being 1."""
        rows = self.samples.reshape(self.functions.count, -1).double()
        index = (rows - self.low) / (self.high - self.low) * _BINS
        inside = (index >= 0) & (index < _BINS)
        counts = torch.zeros(rows.size(0), _BINS).double()
        index = torch.where(inside, index, 0.0).long()
        counts.scatter_add_(1, index, inside.double())
        return counts / counts.amax(1, keepdim=True).clamp(min=1)

    def _conditions(self) -> list[dict[str, Any]]:
        values = self.functions.at_rest() if self.conditions is None else self.conditions
        found = []
        for name, column in zip(self.functions.names, values.flatten(0, 1).T, strict=True):
            column = column[column.isfinite()].double()
            low, high = column.min().item(), column.max().item()
            counts = torch.histc(column, 30, low, high) if high > low else torch.ones(1)
            found.append(dict(name=name, low=low, high=high, counts=counts.tolist()))
        return found

    def _add_past(self, entry: dict, blob: _Blob, kept: Any, history: Sequence[Snapshot]) -> None:
        if not history or not any(True for _ in self.module.parameters()):
            return
        samples = self.samples[:, :_PAST_VALUES]
        now = [self.module] if self.functions.names else []
        curves: list[Tensor] = []
        distances: list[list[float | None]] = []
        for module in [snapshot.layers.get(self.name) for snapshot in history] + now:
            functions = None if module is None else family(module)
            if functions is None or functions.count != self.functions.count:
                curves.append(torch.full((self.functions.count, _PAST_POINTS), torch.nan).double())
                distances.append([None, None])
                continue
            curves.append(self._curves(functions, None, _PAST_POINTS).mean(0))
            off = measure(functions, samples, self.start).distance
            distances.append(_mean_and_worst(off))
        # The last point of a function that depends on the data is at rest, as those before it are.
        last = distances.pop() if now else _mean_and_worst(self.measures.distance)
        if any(mean is not None for mean, _ in [*distances, last]):
            entry['past'] = [*distances, last]
        entry['history'] = blob.add(torch.stack(curves[: len(history)])[:, kept], 8)

    def _add_other(self, entry: dict, blob: _Blob, kept: Any, compare: Snapshot | None) -> None:
        other = None if compare is None else compare.layers.get(self.name)
        if other is None or family(other).count != self.functions.count:
            return
        curves = self._curves(family(other), None, _POINTS).mean(0)
        entry['compare'] = blob.add(curves[kept], 16)
        off = measure(self.functions, self.samples, family(other), conditions=self.conditions)
        mean, worst = _mean_and_worst(off.distance)
        entry['summary'] |= dict(difference=mean, difference_worst=worst)


class _Blob:
    """Arrays as integers between their smallest and largest value, one after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: Tensor, bits: int) -> list:
        """Takes an array in; returns [offset, bits, shape, low, high], what reading it needs."""
        array = values.detach().double().numpy()
        finite = np.isfinite(array)
        low, high = (f(array[finite]).item() if finite.any() else 0.0 for f in (np.min, np.max))
        top = 2**bits - 1  # stands for what is not finite
        scale = (top - 1) / (high - low) if high > low else 0.0
        codes = np.full(array.shape, top, f'<u{bits // 8}')
        codes[finite] = np.rint((array[finite] - low) * scale).astype(codes.dtype)
        part = codes.tobytes()
        offset = self._size
        part += bytes(-len(part) % 2)
        self._parts.append(part)
        self._size += len(part)
        return [offset, bits, list(array.shape), low, high]

    def text(self) -> str:
        """All of them, compressed, as text."""
        return base64.b64encode(zlib.compress(b''.join(self._parts), 9)).decode()


_DESCRIPTIONS = {record.name: record.description.replace('`', '') for record in list_activations()}


def _mean_and_worst(values: Tensor) -> list[float | None]:
    values = values[values.isfinite()]
    return [values.mean().item(), values.max().item()] if values.numel() else [None, None]


def _json(value: Any) -> str:
    """As a page may hold it: nothing in it ends the script, and there is no NaN."""
    text = json.dumps(_plain(value), separators=(',', ':'), allow_nan=False)
    return text.replace('<', '\\u003c')


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value


def _in_short(functions: int, measures: Sequence[Measures], measured: bool) -> str:
    """A sentence or three about the network."""
    text = [f'{len(measures)} activation layers with {functions} functions.']
    distances = torch.cat([m.distance for m in measures])
    distances = distances[distances.isfinite()]
    if distances.numel():
        still = (distances < 0.01).double().mean()
        text.append(
            f'On average their outputs have moved by {distances.mean():.3g} standard deviations of '
            f'their input since the start, {still:.0%} of them by less than 0.01.'
        )
    constant = torch.cat([m.constant for m in measures])
    constant = constant[constant.isfinite()]
    if measured and constant.numel():
        text.append(
            f'{int(constant.sum())} of {constant.numel()} channels always put out the same value.'
        )
    outside = torch.cat([m.outside for m in measures])
    outside = outside[outside.isfinite()]
    if outside.numel():
        text.append(f'{outside.mean():.1%} of the inputs lie outside of the bounds.')
    if not measured:
        text.append(
            'No data were given: inputs are assumed, and dead channels, alignment and the share '
            'outside of the bounds are not known.'
        )
    return ' '.join(text)
