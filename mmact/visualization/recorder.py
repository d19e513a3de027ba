# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Samples of what goes into activations while a model runs."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mmact.ops._arguments import positive
from mmact.ops._compat import uncompiled, unravel_index

from .layers import Modules, channels_first, scalar_activations


class InputRecorder:
    """Keeps a sample of the input of each function of each activation while a ``with`` block runs.

    It only reads: outputs, gradients, buffers and PyTorch's random state stay what they are. Memory
    is bounded by ``max_values`` numbers for each channel, on the CPU. Up to so many the sample is
    complete; beyond, it is a uniform random one of all values seen (deterministic for the same
    inputs). Values that are not finite are dropped. A compiled model runs uncompiled in the block
    (from torch 2.6 on; before, it does not call the recorder's hooks). A warning says so when
    nothing was recorded.

    Args:
        model: A model, whose scalar activations are recorded, or modules of any class by name. See
            :func:`scalar_activations`.
        max_values: Size of the sample for each channel.

    Raises:
        ValueError: If ``max_values`` is not positive.

    Example:
        >>> with InputRecorder(model) as recorder:
        ...     model(images)
        >>> recorder.samples['backbone.act1'].shape
        torch.Size([64, 1024])
    """

    def __init__(self, model: Modules, max_values: int = 1024) -> None:
        (max_values,) = positive(type(self).__name__, max_values=max_values)
        self.modules = scalar_activations(model)
        self.max_values = max_values
        #: Samples by name of the activation, (C, K) with K <= max_values, float32, NaN where a
        #: value was not finite. Only activations that received an input are there.
        self.samples: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._eager: AbstractContextManager | None = None
        # Its own generator: the model's random numbers must not depend on being watched.
        self._generator = torch.Generator().manual_seed(0)

    def start(self) -> None:
        """Begins to record; a ``with`` block does it on entry."""
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_pre_hook(self._hook(name)))
        self._eager = uncompiled()
        self._eager.__enter__()

    def stop(self) -> None:
        """Ends recording; a ``with`` block does it on exit."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._eager is None:
            return
        self._eager.__exit__(None, None, None)
        self._eager = None
        if self.modules and not self.samples:
            warnings.warn(
                f'InputRecorder: no input has reached any of {len(self.modules)} activations: '
                'either the model did not run, or it is compiled by a torch before 2.6',
                stacklevel=2,
            )

    def __enter__(self) -> InputRecorder:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _hook(self, name: str):
        def record(module: nn.Module, args: tuple) -> None:
            if args[0].numel() > 0:
                self._add(name, channels_first(module, args[0].detach()))

        return record

    def _add(self, name: str, values: Tensor) -> None:
        """Takes (C, ...) new values in, each with the same chance to stay as every earlier one."""
        count = values[0].numel()
        before = self._seen.get(name, 0)
        self._seen[name] = before + count
        room = self.max_values
        if before + count <= room:
            values = values.flatten(1)
        else:
            # In the long run each share is what a reservoir sample would hold on average.
            share = round(room * count / (before + count))
            values = self._thinned(values, max(share, room - before))
        values = values.to('cpu', torch.float32)
        values = torch.where(values.isfinite(), values, torch.nan)
        if before:
            kept = self._thinned(self.samples[name], room - values.size(1))
            values = torch.cat([kept, values], 1)
        self.samples[name] = values

    def _thinned(self, values: Tensor, size: int) -> Tensor:
        """At most ``size`` of the values of each channel, without a copy of the others."""
        positions = values.shape[1:]
        count = positions.numel()
        if count <= size:
            return values.flatten(1)
        if count <= 4 * self.max_values:
            index = torch.randperm(count, generator=self._generator)[:size]
        else:
            # With replacement: hardly ever the same value twice, and no permutation of millions.
            index = torch.randint(count, (size,), generator=self._generator)
        return values[(slice(None), *unravel_index(index.to(values.device), positions))]
