# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The modules and functions that are activations, and what they compute."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import Activation

#: Kind by the class's name, which PyTorch, mmcv, timm, transformers and codebases share.
_CLASSES = {
    'ReLU': ('ReLU',),
    'ReLU6': ('ReLU6',),
    'LeakyReLU': ('LeakyReLU',),
    'ELU': ('ELU',),
    'CELU': ('CELU',),
    'SELU': ('SELU',),
    'GELU': (
        'GELU',
        'GELUTanh',
        'GELUActivation',
        'NewGELUActivation',
        'FastGELUActivation',
        'AccurateGELUActivation',
        'ClippedGELUActivation',
    ),
    'QuickGELU': ('QuickGELU', 'QuickGELUActivation'),
    'SiLU': ('SiLU', 'Swish', 'SwishMe', 'SiLUActivation'),
    'Mish': ('Mish', 'MishMe', 'MishActivation'),
    'Hardswish': ('Hardswish', 'HSwish', 'HardSwish', 'HardSwishMe'),
    'HardMish': ('HardMish', 'HardMishMe'),
    'ReLUSquared': ('ReLUSquaredActivation',),
    # These stay unless asked for.
    'Sigmoid': ('Sigmoid',),
    'Hardsigmoid': ('Hardsigmoid', 'HSigmoid', 'HardSigmoid', 'HardSigmoidMe'),
    'Tanh': ('Tanh',),
    'Hardtanh': ('Hardtanh',),
    'Softplus': ('Softplus',),
    'Softsign': ('Softsign',),
    'LogSigmoid': ('LogSigmoid',),
    'PReLU': ('PReLU',),
    'RReLU': ('RReLU',),
    'Softmax': ('Softmax', 'Softmax2d', 'LogSoftmax', 'Softmin'),
}
_KIND = {name: kind for kind, names in _CLASSES.items() for name in names}

_GATE = 'a gate, or the end of a branch'
#: Why a kind stays unless ``replaces`` names it.
STAYS = {
    **dict.fromkeys(
        ('Sigmoid', 'Hardsigmoid', 'Tanh', 'Hardtanh', 'Softplus', 'Softsign', 'LogSigmoid'), _GATE
    ),
    'PReLU': 'learned already; a checkpoint of the model holds its slopes',
    'RReLU': 'random in training',
    'Softmax': 'not a function of one element',
}

#: Kinds that :func:`mmact.convert` replaces by default, besides the learned ones of mmact.
REPLACES = tuple(kind for kind in _CLASSES if kind not in STAYS)

_FUNCTIONS: dict[Callable, str] = {}
for _kind, _names in {
    'ReLU': ('relu', 'relu_'),
    'ReLU6': ('relu6',),
    'LeakyReLU': ('leaky_relu', 'leaky_relu_'),
    'ELU': ('elu', 'elu_'),
    'CELU': ('celu', 'celu_'),
    'SELU': ('selu', 'selu_'),
    'GELU': ('gelu',),
    'SiLU': ('silu',),
    'Mish': ('mish',),
    'Hardswish': ('hardswish',),
    'Sigmoid': ('sigmoid', 'sigmoid_'),
    'Hardsigmoid': ('hardsigmoid',),
    'Tanh': ('tanh', 'tanh_'),
    'Softplus': ('softplus',),
}.items():
    for _name in _names:
        for _home in (F, torch, Tensor):
            if hasattr(_home, _name):
                _FUNCTIONS[getattr(_home, _name)] = _kind

_NAMES = {'ReLU': 'relu', 'SiLU': 'silu', 'Mish': 'mish', 'Sigmoid': 'sigmoid', 'Tanh': 'tanh'}


@dataclass(frozen=True)
class Original:
    """A function that stands in a model.

    Args:
        kind: One of the names above, or that of a class of mmact.
        function: The function, from tensor to tensor, not in place.
        name: Its name for the ``init`` of PWLU and PAU, which keep fits of named functions; None
            where it has none.
        slope: Slope below 0, if it is linear on both sides of 0 with slope 1 above; else None.
    """

    kind: str
    function: Callable[[Tensor], Tensor]
    name: str | None = None
    slope: float | None = None

    @property
    def label(self) -> str:
        """Its name, or its kind where it has none; tells it from others."""
        return self.name or self.kind

    @property
    def init(self) -> str | Callable[[Tensor], Tensor]:
        """The value for the ``init`` of PWLU and PAU."""
        return self.function if self.name is None else self.name


def kind_of(module: nn.Module) -> str | None:
    """The kind of an activation module; None for everything else."""
    if isinstance(module, Activation):
        return type(module).__name__
    return _KIND.get(type(module).__name__)


def kind_of_function(function: Callable) -> str | None:
    """The kind of a function of ``torch``, ``torch.nn.functional`` or ``Tensor``, or None."""
    try:
        return _FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None


def original_of(module: nn.Module) -> Original:
    """The function of an activation module in evaluation, as it is now."""
    kind = kind_of(module)
    if kind is None:
        raise TypeError(f'{type(module).__name__} is no activation')
    if kind == 'ReLU':
        return Original(kind, F.relu, 'relu', 0.0)
    if isinstance(module, nn.LeakyReLU):
        return _leaky(module.negative_slope)
    if type(module) is nn.GELU and module.approximate == 'none':
        return Original(kind, F.gelu, 'gelu')
    if kind in _NAMES and type(module).__module__.startswith('torch.nn'):
        return Original(kind, getattr(F, _NAMES[kind], torch.tanh), _NAMES[kind])
    module = copy.deepcopy(module).eval()
    if hasattr(module, 'inplace'):
        vars(module)['inplace'] = False
    return Original(kind, module)


def original_of_call(function: Callable, kind: str, args: tuple, kwargs: dict) -> Original:
    """The function that a call computes, given the arguments after the input."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ('inplace', 'input')}
    if kind == 'LeakyReLU':
        return _leaky(float(kwargs.get('negative_slope', args[0] if args else 0.01)))
    if kind in ('ReLU', 'ReLU6', 'SiLU', 'Mish', 'Hardswish', 'SELU', 'Hardsigmoid'):
        args = ()  # their only argument is inplace
    name = _NAMES.get(kind)
    if kind == 'GELU' and not args and kwargs.get('approximate', 'none') == 'none':
        return Original(kind, F.gelu, 'gelu')
    stem = function.__name__.rstrip('_')
    plain = getattr(F, stem, None) or getattr(torch, stem)
    if args or kwargs:
        # Positional arguments follow the input.
        return Original(kind, _Bound(plain, args, tuple(sorted(kwargs.items()))))
    return Original(kind, plain, name, 0.0 if kind == 'ReLU' else None)


@dataclass(frozen=True)
class _Bound:
    """A function with arguments after the input; equal to another of the same arguments."""

    function: Callable
    args: tuple
    kwargs: tuple

    def __call__(self, x: Tensor) -> Tensor:
        return partial(self.function, **dict(self.kwargs))(x, *self.args)


def _leaky(slope: float) -> Original:
    function = _Bound(F.leaky_relu, (slope,), ())
    return Original('LeakyReLU', function, f'leaky_relu_{slope:g}', slope)
