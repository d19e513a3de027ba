# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The base classes of all activation layers, and the way a layer learns its channel count.

OpenMMLab builds activations from ``act_cfg`` without telling them the number of channels, yet
optimizers, DDP, EMA and checkpoint loading must see the parameters before the first forward. So a
layer takes the count from its surroundings at the moment it is registered into a parent module:

1. An explicit ``num_channels`` always wins; with ``num_groups`` nothing needs to be known.
2. In a parent with an ``order`` that names ``'conv'`` and ``'act'`` (mmcv's ConvModule), the
   convolution's side on which the activation stands decides.
3. Else the sibling registered last before it that has ``out_channels``, ``out_features``,
   ``num_features`` or ``normalized_shape`` (the last such layer inside an ``nn.Sequential``; any
   inside another module all of whose layers have the same). If the activation's name ends in a
   number, siblings with that number come first: act1 goes with conv1, whatever was registered
   since.
4. Else the parent's own ``out_channels``, or what it says of itself if it is a norm, linear or
   convolution layer that holds its activation.

Linear and LayerNorm siblings mean channel-last data, all others channels at dimension 1.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_module_registration_hook

from ..ops._arguments import dense_floats, optional


@functools.cache
def _signature(cls: Any) -> inspect.Signature:
    """The arguments of a class, those included that its constructor hands on as **kwargs."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        own = inspect.signature(vars(base)['__init__']).parameters
        found |= {n: p for n, p in list(own.items())[1:] if n not in found}
        rest = [n for n, p in found.items() if p.kind is p.VAR_KEYWORD]
        if not rest:
            break
        del found[rest[0]]
    return inspect.Signature(sorted(found.values(), key=lambda p: p.kind))


class Activation(nn.Module):
    """Base of all activation layers of mmact; tools and hooks recognise them by it.

    Frameworks decide by dimension or by class which tensors to initialise, to decay, to shard or to
    quantise. So that none of these rules reaches into an activation, its parameters are flat:
    1-D, with one element or more. :meth:`rows` sees them in their documented shape. State dicts of
    earlier versions and of others' layers, which have other shapes and names, are converted when
    they are loaded.

    Attributes:
        elementwise: Whether each element of the result depends, in evaluation, on the element of
            the input at its place alone.
        paper: Authors, title and place of the paper, without the year.
        year: Year of the paper.
        parameter_count: Number of parameters at the default arguments, and what has that many of
            its own: ``'layer'``, ``'channel'``, or where the number is neither constant nor
            proportional to the width, ``'layer of 64 channels'``.
        elementwise_op: Name of the op that forward calls with its input, if it is one that a
            normalisation can stand in front of; forward then takes a ``norm``
            (:class:`mmact.ops.norm.Norm`).
        hyper_function: Whether the parameters are those of a small network that makes the function:
            ordinary weights, for which optimizers have ordinary weight decay.
    """

    elementwise: ClassVar[bool] = True
    paper: ClassVar[str] = ''
    year: ClassVar[int] = 0
    parameter_count: ClassVar[tuple[int, str]] = (0, '')
    elementwise_op: ClassVar[str] = ''
    hyper_function: ClassVar[bool] = False

    #: Names in state dicts of earlier versions and of others' layers, and what they are here.
    _renamed: ClassVar[dict[str, str]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module. In a graph of torch.fx an activation is one node, as nn.PReLU is."""
        if not (args and isinstance(args[0], fx.Proxy)):
            if args:
                dense_floats(type(self).__name__, 'x', args[0])
            return super().__call__(*args, **kwargs)
        tracer: Any = args[0].tracer

        def leaf(*args: Any, **kwargs: Any) -> fx.Proxy:
            path = tracer.path_of_module(self)
            return tracer.create_proxy('call_module', path, args, kwargs)

        # Through the tracer, for those that note where a node comes from.
        return tracer.call_module(self, leaf, args, kwargs)

    def __new__(cls, *args, **kwargs) -> Any:  # noqa: D102 the class says it
        # In the name of this class; Python would name the one whose constructor it inherits.
        kind: Any = cls
        signature = _signature(kind)
        try:
            signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f'{cls.__name__}: {error}; it takes {", ".join(signature.parameters)}. An act_cfg '
                f'that inherits arguments from another leaves them behind with _delete_=True'
            ) from None
        return super().__new__(cls)

    @property
    def num_functions(self) -> int:
        """Number of functions, each with parameters of its own."""
        return 1

    @property
    def sees_input(self) -> bool:
        """Whether forward does more with its input, now, than to apply the function."""
        return False

    def rows(self, name: str) -> Tensor:
        """Returns a flat parameter as (num_functions, n), a view."""
        return getattr(self, name).view(self.num_functions, -1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args, **kwargs):
        for old, new in self._renamed.items():
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        for name, parameter in self._parameters.items():
            value = state_dict.get(prefix + name)
            if parameter is None or not isinstance(value, Tensor) or value.dim() == 1:
                continue
            if value.numel() == parameter.numel():
                state_dict[prefix + name] = value.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class ChannelsError(ValueError):
    """An input does not have the channels that an activation was built for."""


class ChannelActivation(Activation):
    """An activation with parameters for each channel, group of channels, or layer.

    Subclasses implement :meth:`build`, which creates the parameters once the number of functions is
    known, and call :meth:`_start` at the end of their constructors.

    Args:
        num_channels: Number of channels C; None to take it from the surroundings.
        num_groups: Number of functions. None: one for each channel; 1: one for the layer;
            a divisor of C: groups of C / num_groups neighbouring channels share one. With a number
            the layer does not need to know C.
        channel_dim: Dimension that holds the channels; None to take it from the surroundings, and 1
            where they do not tell.

    Raises:
        ValueError: If ``num_channels`` or ``num_groups`` is neither a positive integer nor None, if
            C cannot be shared by ``num_groups``, or if ``channel_dim`` is not an integer.
    """

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        num_groups: int | None = None,
        channel_dim: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        num_channels = optional(name, 'num_channels', num_channels, 1)
        num_groups = optional(name, 'num_groups', num_groups, 1)
        channel_dim = optional(name, 'channel_dim', channel_dim)
        if num_channels is not None and num_groups is not None and num_channels % num_groups:
            raise ValueError(
                f'{name}: {num_channels} channels cannot be shared by num_groups={num_groups}'
            )
        self.num_channels = num_channels
        self.num_groups = num_groups
        self.channel_dim = channel_dim

    def __new__(cls, *args, **kwargs) -> ChannelActivation:  # noqa: D102 the class has it
        if 'mode' in kwargs:
            raise TypeError(
                f"{cls.__name__} has no argument 'mode' any more: mode='layer' is num_groups=1, "
                "mode='channel' is num_groups=None"
            )
        return super().__new__(cls, *args, **kwargs)

    @property
    def resolved(self) -> bool:
        """Whether the number of functions is known and the parameters exist."""
        return self.num_groups is not None or self.num_channels is not None

    @property
    def num_functions(self) -> int:
        """Number of functions: ``num_groups``, or C where that is None.

        Raises:
            RuntimeError: If neither an argument nor the surroundings gave the number of channels.
        """
        self.require_resolved()
        return self.num_groups or self.num_channels or 0

    def build(self, num_functions: int) -> None:
        """Creates parameters and buffers for ``num_functions`` functions."""
        raise NotImplementedError

    def _start(self) -> None:
        if self.resolved:
            self.build(self.num_functions)

    def _resolve(self, num_channels: int, channel_dim: int, like: Tensor | None) -> None:
        self.num_channels = num_channels
        if self.channel_dim is None:
            self.channel_dim = channel_dim
        if like is None:
            self.build(num_channels)
        else:
            with torch.device(like.device):
                self.build(num_channels)
            self.to(like.dtype)

    def _dim(self, x: Tensor) -> int:
        """Dimension of x's channels, counted from the front; 0 where one function does for all.

        Raises:
            RuntimeError: If the number of channels is not known.
            ChannelsError: If x does not have that many channels.
        """
        if self.num_groups == 1:
            return 0
        functions = self.num_functions
        dim = 1 if self.channel_dim is None else self.channel_dim
        if -x.dim() <= dim < x.dim():
            channels = x.size(dim)
            if self.num_channels in (None, channels) and channels % functions == 0 < channels:
                return dim % x.dim()
        wanted = self.num_channels or f'a multiple of {functions}'
        raise ChannelsError(
            f'{type(self).__name__}{where(self)} has {wanted} channels at dimension {dim}, got '
            f'an input of shape {tuple(x.shape)}; pass num_channels and channel_dim (-1 for '
            f'channel-last tokens){self._or_one_for_all()}'
        )

    def _or_one_for_all(self) -> str:
        """For messages: the remedy that needs no number of channels, if the layer has it."""
        kind: Any = type(self)
        takes = 'num_groups' in _signature(kind).parameters
        return ', or num_groups=1 for one function of the whole layer' if takes else ''

    def require_resolved(self) -> None:
        """Raises an error that says where the layer stands and what to pass, if C is unknown.

        Raises:
            RuntimeError: If neither an argument nor the surroundings gave the number of channels.
        """
        if self.resolved:
            return
        name = type(self).__name__
        raise RuntimeError(
            f'{name}{where(self)} does not know its number of channels: no convolution, linear or '
            f"normalisation layer was registered before it. Pass it: act_cfg=dict(type='{name}', "
            f'num_channels=...) or {name}(num_channels=...){self._or_one_for_all()}'
        )

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return (
            f'num_channels={self.num_channels}, num_groups={self.num_groups}, '
            f'channel_dim={self.channel_dim}'
        )


def functions_of(activation: nn.Module) -> tuple[nn.Module, int]:
    """Returns a copy of an elementwise activation that has a channel for each of its functions.

    Args:
        activation: A layer of mmact, of any number of groups, or of PyTorch.

    Returns:
        The copy, and the number of functions: 1 where all channels share one.

    Raises:
        RuntimeError: If the activation does not know its number of channels.
    """
    function = copy.deepcopy(activation)
    if isinstance(function, ChannelActivation) and function.num_groups is not None:
        function.num_channels = None
    # nn.PReLU calls it num_parameters.
    count: int = getattr(function, 'num_functions', 0) or getattr(function, 'num_parameters', 1)
    return function, count


def unresolved(model: nn.Module) -> list[tuple[str, ChannelActivation]]:
    """Lists the activations of a model that do not know their number of channels.

    Args:
        model: Any module.

    Returns:
        (path, module) pairs, in the order of ``model.named_modules()``.
    """
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, ChannelActivation) and not module.resolved
    ]


def where(module: nn.Module) -> str:
    """For messages: where a module stands, ``" at 'neck.act' of Net"``; empty without a parent.

    Modules do not know their parents, so all that there are are asked.
    """
    parents: dict[Any, Any] = {}
    for parent in gc.get_objects():
        if issubclass(type(parent), nn.Module):
            for name, child in vars(parent).get('_modules', {}).items():
                parents.setdefault(id(child), (parent, name))
    path: list[str] = []
    top = module
    while id(top) in parents and len(path) < 100:
        top, name = parents.pop(id(top))  # once: what is shared has several, and no end is reached
        path.insert(0, name)
    return f" at '{'.'.join(path)}' of {type(top).__name__}" if path else ''


_LAYERS = (
    nn.Linear,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.batchnorm._NormBase,
    nn.modules.conv._ConvNd,
)


def _positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _attribute(module: nn.Module, name: str) -> Any:
    """An attribute of a module of any library, or None.

    The hook sees modules that are only half built, whose own __getattr__ may fail in any way.
    """
    try:
        return getattr(module, name, None)
    except Exception:
        return None


def _output_channels(module: nn.Module) -> tuple[int, int] | None:
    """(channels, channel_dim) of what a layer puts out, or None if it does not say."""
    own = _own_channels(module)
    if own is not None and not isinstance(module, nn.Sequential):
        return own
    children = [child for child in module._modules.values() if child is not None]
    found = [f for f in map(_output_channels, children) if f is not None]
    if isinstance(module, nn.Sequential):
        return found[-1] if found else None
    # A layer with its norm, as LeViT has them: nothing in it is of another width.
    return found[0] if len({channels for channels, _ in found}) == 1 else None


def _own_channels(module: nn.Module) -> tuple[int, int] | None:
    """(channels, channel_dim) of what a layer puts out, by its own attributes."""
    for attribute in ('out_channels', 'out_features', 'num_features'):
        value = _attribute(module, attribute)
        if _positive_int(value):
            return value, (-1 if attribute == 'out_features' else 1)
    shape = _attribute(module, 'normalized_shape')
    if shape is not None:
        value = shape if isinstance(shape, int) else tuple(shape)[-1]
        # The layer norms of ConvNeXt and others normalise (N, C, H, W) over C under this name.
        return value, (1 if type(module).__name__.endswith('2d') else -1)
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    return None


def _number(name: str) -> str:
    """The digits at the end of a name."""
    return name[len(name.rstrip('0123456789')) :]


def _siblings_before(parent: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The children registered before ``name``, the latest first, with their names."""
    names = list(parent._modules)
    end = names.index(name) if name in parent._modules else len(names)
    for other in reversed(names[:end]):
        sibling = parent._modules[other]
        if sibling is not None:
            yield other, sibling


def _surrounding_channels(parent: nn.Module, name: str) -> tuple[int, int] | None:
    order = _attribute(parent, 'order')
    if isinstance(order, tuple) and 'conv' in order and 'act' in order:
        before = order.index('act') < order.index('conv')
        value = _attribute(parent, 'in_channels' if before else 'out_channels')
        if _positive_int(value):
            return value, 1
    # conv1, conv2, act1, act2: siblings with the activation's own number come first.
    number = _number(name)
    siblings = list(_siblings_before(parent, name))
    if number:
        siblings.sort(key=lambda item: _number(item[0]) != number)
    for _, sibling in siblings:
        found = _output_channels(sibling)
        if found is not None:
            return found
    # A layer that is a norm, convolution or linear layer and holds its activation.
    if isinstance(parent, _LAYERS) or 'Norm' in type(parent).__name__:
        return _own_channels(parent)
    value = _attribute(parent, 'out_channels')
    return (value, 1) if _positive_int(value) else None


def _on_registration(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    if child is None:
        return
    if not isinstance(child, ChannelActivation):
        return
    if child.resolved and child.channel_dim is not None:
        return
    found = _surrounding_channels(parent, name)
    if child.resolved:
        if found is not None:
            child.channel_dim = found[1]
    elif found is not None:
        floats = (p for _, s in _siblings_before(parent, name) for p in s.parameters())
        like = next((p for p in floats if p.is_floating_point()), None)
        child._resolve(*found, like=like)


register_module_module_registration_hook(_on_registration)
