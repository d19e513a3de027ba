# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Running a model once to see where activations are called, and on what.

The channels of an input follow from what made it: a convolution or BatchNorm puts them at dimension
1, a linear layer or LayerNorm at the last one. Every tensor carries that dimension through what
keeps it, and loses it in what does not (attention's products, a reshape across it).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .kinds import Original, kind_of, kind_of_function, original_of_call
from .rewrite import Position, position_of

_ATTRIBUTE = '_mmact_channel_dim'

_FIRST = {
    getattr(F, name)
    for name in (
        *(f'conv{n}d' for n in '123'),
        *(f'conv_transpose{n}d' for n in '123'),
        *('batch_norm', 'instance_norm', 'group_norm', 'max_pool2d', 'interpolate'),
    )
}
_LAST = {F.linear, F.layer_norm, torch.addmm, Tensor.addmm}
_LOST = {
    *(torch.bmm, Tensor.bmm, torch.baddbmm, torch.einsum, F.scaled_dot_product_attention),
    *(Tensor.t, torch.t, *(getattr(Tensor, name).__get__ for name in ('T', 'mT', 'H'))),
}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
_PERMUTE = {torch.permute, Tensor.permute}
_TRANSPOSE = {torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes}
_PARTS = {
    *(torch.cat, torch.concat, torch.chunk, Tensor.chunk, torch.split, Tensor.split),
    *(Tensor.__getitem__, F.pad, torch.narrow, Tensor.narrow, Tensor.unbind, torch.unbind),
}

# Frames between a call in a model's code and what sees it.
_PASSED = ('/torch/nn/modules/module.py', '/torch/overrides.py', '/torch/nn/functional.py')


@dataclass
class Call:
    """Calls of one activation from one place, all on inputs of the same width.

    Args:
        caller: The module in whose code the call stands; None if it is not in a method of one.
        position: Where it stands; None if Python does not tell.
        channels: Size of the channel dimension; None if that is not known.
        channel_dim: Channel dimension, -1 if it is the last one; None if it is not known.
        map_size: Largest number of elements of a channel in a sample; None for inputs (N, C).
        shape: Shape of an input.
        low: Smallest element of the input.
        high: Largest element of the input.
        like: An empty tensor of the input's device and dtype.
        frozen: Whether parameters made the input, none of which learns: those of frozen stages.
        changed: Whether the input is changed in place after the call. ReLU does not mind, whose
            gradient needs its output alone.
    """

    caller: nn.Module | None
    position: Position | None
    channels: int | None
    channel_dim: int | None
    map_size: int | None
    shape: tuple[int, ...]
    low: float
    high: float
    like: Tensor
    frozen: bool
    changed: bool = False

    def merge(self, other: Call) -> None:
        """Takes in another call of the same key."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.frozen = self.frozen and other.frozen
        sizes = [s for s in (self.map_size, other.map_size) if s is not None]
        self.map_size = max(sizes, default=None)


@dataclass
class FunctionalSite:
    """A place in the code where an activation is called as a function."""

    kind: str
    originals: list[Original] = field(default_factory=list)
    calls: dict[int | None, Call] = field(default_factory=dict)


class DryRun(TorchFunctionMode):
    """Records calls of activations while it is entered.

    Args:
        model: The model that is going to be run.

    Attributes:
        modules: Calls of each activation module, by its id, the caller's id, the position and the
            channels.
        functions: Places where functions are called, by the caller's id and the position.
        complete: Whether every way to run the model worked; who runs it says so.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.modules: dict[int, dict[tuple, Call]] = {}
        self.functions: dict[tuple, FunctionalSite] = {}
        self.complete = False
        self._ids: set[int] = set()
        self._depth = 0  # of activation modules
        self._current: Call | None = None
        self._inputs: MutableMapping[Tensor, list[Call]] = WeakTensorKeyDictionary()

    def __enter__(self) -> DryRun:
        self._ids = {id(module) for module in self.model.modules()}
        self._depth = 0
        self._learns: bool | None = None  # whether one of the parameters used so far does
        self._handles = []
        for module in self.model.modules():
            if kind_of(module) is not None:
                self._handles += [
                    module.register_forward_pre_hook(self._before),
                    module.register_forward_hook(self._after, always_call=True),
                ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple) -> None:
        self._depth += 1
        if self._depth > 1 or not args or not isinstance(args[0], Tensor):
            return
        call = self._current = self._call(sys._getframe(1), args[0])
        if call is None:
            return
        calls = self.modules.setdefault(id(module), {})
        key = (id(call.caller), call.position, call.channels, call.channel_dim)
        self._current = _add(calls, key, call)

    def _after(self, module: nn.Module, args: tuple, output: object) -> None:
        self._depth -= 1
        if not self._depth and args and isinstance(args[0], Tensor):
            self._passed(self._current, args[0], output)
            self._current = None

    def _passed(self, call: Call | None, x: Tensor, output: object) -> None:
        """Remembers the input of a call, which may be changed later."""
        if output is x:
            self._change(x)
        elif call is not None:
            for tensor in (x, x._base):
                if tensor is not None:
                    self._inputs.setdefault(tensor, []).append(call)

    def _change(self, x: Tensor) -> None:
        for tensor in (x, x._base):
            for call in () if tensor is None else self._inputs.pop(tensor, ()):
                call.changed = True

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = kind_of_function(func)
        x = args[0] if args else kwargs.get('input')
        call = None
        if kind is not None and not self._depth and isinstance(x, Tensor):
            call = self._call(sys._getframe(1), x)
            if call is not None:
                key = (id(call.caller), call.position)
                site = self.functions.setdefault(key, FunctionalSite(kind))
                call = _add(site.calls, call.channels, call)
                original = original_of_call(func, kind, args[1:], kwargs)
                if original not in site.originals:
                    site.originals.append(original)
        before = _tagged(args)
        shape = torch.Size() if before is None else before.shape  # in-place calls may change it
        version = _version(x)
        if not self._learns:
            for value in (*args, *kwargs.values()):
                if isinstance(value, nn.Parameter):
                    self._learns = self._learns or value.requires_grad
        out = func(*args, **kwargs)
        if not self._depth and isinstance(x, Tensor):
            if call is not None:
                self._passed(call, x, out)
            elif _version(x) != version:
                self._change(x)
        for result in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(result, Tensor) and not isinstance(result, nn.Parameter):
                dim = _channel_dim(func, args, kwargs, before, shape, result)
                if dim is not None or hasattr(result, _ATTRIBUTE):
                    setattr(result, _ATTRIBUTE, dim)
        return out

    def _call(self, frame: FrameType | None, x: Tensor) -> Call | None:
        """Describes a call of an activation on x; None for inputs without elements."""
        with torch._C.DisableTorchFunction():
            if not x.numel() or not x.is_floating_point():
                return None
            while frame and frame.f_code.co_filename.endswith(_PASSED):
                frame = frame.f_back
            position = position_of(frame) if frame else None
            while frame and frame.f_code.co_name.startswith('<') and 'self' not in frame.f_locals:
                frame = frame.f_back  # out of a comprehension
            caller = frame.f_locals.get('self') if frame else None
            if not isinstance(caller, nn.Module) or id(caller) not in self._ids:
                caller = None
            dim, size = getattr(x, _ATTRIBUTE, None), None
            if x.dim() > 2:
                per_sample = x[0].numel()
                size = per_sample if dim is None else per_sample // x.size(dim)
            low, high = (bound.item() for bound in x.aminmax())
            if not math.isfinite(low) or not math.isfinite(high):
                finite = x[x.isfinite()]
                low, high = (t.item() for t in finite.aminmax()) if finite.numel() else (0.0, 0.0)
            return Call(
                caller,
                position,
                None if dim is None else x.size(dim),
                None if dim is None else (-1 if dim == x.dim() - 1 else dim),
                size,
                tuple(x.shape),
                low,
                high,
                x.new_empty(0),
                self._learns is False,
            )


def _add(calls: dict, key: object, call: Call) -> Call:
    if key in calls:
        calls[key].merge(call)
    else:
        calls[key] = call
    return calls[key]


def _version(x: object) -> int | None:
    """How often a tensor was changed in place."""
    return x._version if isinstance(x, Tensor) and not x.is_inference() else None


def _tagged(args: tuple) -> Tensor | None:
    """The first argument of known channels."""
    for arg in args:
        for item in arg if isinstance(arg, (tuple, list)) else (arg,):
            if isinstance(item, Tensor) and getattr(item, _ATTRIBUTE, None) is not None:
                return item
    return None


def _channel_dim(
    func: Callable,
    args: tuple,
    kwargs: dict,
    before: Tensor | None,
    shape: torch.Size,
    out: Tensor,
) -> int | None:
    """Where the channels of a result are, counted from the front."""
    with torch._C.DisableTorchFunction():
        ndim = out.dim()
        if func in _FIRST:
            return 1 if ndim > 1 else None
        if func in _LAST:
            return ndim - 1
        if func in _MATMUL:
            weight = args[1] if len(args) > 1 else None
            return ndim - 1 if isinstance(weight, nn.Parameter) and weight.dim() == 2 else None
        if before is None or func in _LOST:
            return None
        dim = getattr(before, _ATTRIBUTE)
        if func in _PERMUTE:
            order = kwargs.get('dims', args[1] if len(args) == 2 else args[1:])
            order = [d % ndim for d in ((order,) if isinstance(order, int) else order)]
            return order.index(dim)
        if func in _TRANSPOSE and len(args) == 3:
            a, b = (d % ndim for d in args[1:])
            return b if dim == a else a if dim == b else dim
        if ndim == len(shape) and (out.shape[dim] == shape[dim] or func in _PARTS):
            return dim
        behind = len(shape) - dim
        if ndim >= behind and out.shape[ndim - behind :] == shape[dim:]:
            return ndim - behind
        if out.shape[: dim + 1] == shape[: dim + 1]:
            return dim
        return None


@contextmanager
def _seeded(model: nn.Module) -> Iterator[None]:
    """Seeds every generator that a model may ask, and puts their states back.

    torch.manual_seed would seed GPUs too, also those that do not run yet.
    """
    numpy = sys.modules.get('numpy')
    gpus = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    states = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng(devices=gpus):
        random.seed(0)
        torch.default_generator.manual_seed(0)
        if numpy:
            numpy.random.seed(0)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            if numpy:
                numpy.random.set_state(states[1])


@contextmanager
def evaluating(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Runs a model without gradients, with its random numbers, modes and buffers put back after.

    Args:
        model: The model.
        training: Whether code that only training runs is to be run; normalisation and dropout are
            in evaluation all the same.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # PyTorch's fused layers do without the calls that are looked for. Before torch 2.2 nothing
    # turns them off.
    mha: Any = getattr(torch.backends, 'mha', None)
    fast = mha is not None and mha.get_fastpath_enabled()
    try:
        if fast:
            mha.set_fastpath_enabled(False)
        model.train(training)
        for module in model.modules():
            if isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)):
                module.train(False)
        with torch.no_grad(), _seeded(model):
            yield
    finally:
        if fast:
            mha.set_fastpath_enabled(True)
        for module, mode in modes:
            module.training = mode
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
