# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Functions that activations start from, by the names that a config can hold."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops._arguments import shown

#: An elementwise function of a tensor.
Function = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[str, Function] = {
    'elu': F.elu,
    'gelu': F.gelu,
    'hardswish': F.hardswish,
    'identity': lambda x: x,
    'mish': F.mish,
    'relu': F.relu,
    'relu6': F.relu6,
    'sigmoid': torch.sigmoid,
    'softplus': F.softplus,
    'tanh': torch.tanh,
}
_DEFAULTS = {'leaky_relu': 0.01, 'swish': 1.0}  # names that take a number, as in 'swish_1.5'
_ALIASES = {'silu': 'swish'}


def canonical_name(name: str, owner: str = 'PAU') -> str:
    """Returns the one spelling of a function's name: ``'leaky_relu_0.20'`` is ``'leaky_relu_0.2'``.

    Args:
        name: ``'elu'``, ``'gelu'``, ``'hardswish'``, ``'identity'``, ``'leaky_relu'`` (slope 0.01)
            or ``'leaky_relu_<slope>'``, ``'mish'``, ``'relu'``, ``'relu6'``, ``'sigmoid'``,
            ``'silu'``, ``'softplus'``, ``'swish'`` or ``'swish_<b>'`` (x * sigmoid(b * x)),
            ``'tanh'``; or the dotted name of an importable function, such as ``'torch.sin'``.
        owner: Activation that asks, for the message.

    Raises:
        ValueError: For an unknown name; the message lists the known ones.
        TypeError: If name is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(
            f'{owner}: init must be a name or a function of a tensor, got {type(name).__name__}'
        )
    base = _ALIASES.get(name, name)
    if base in _FUNCTIONS:
        return base
    for stem, default in _DEFAULTS.items():
        if base == stem:
            return f'{stem}_{default:g}'
        if base.startswith(f'{stem}_'):
            try:
                value = float(base[len(stem) + 1 :])
            except ValueError:
                break
            if math.isfinite(value):
                return f'{stem}_{value:g}'
    if imported(name) is not None:
        return name
    known = sorted([*_FUNCTIONS, *_ALIASES, *_DEFAULTS, *(f'{s}_<number>' for s in _DEFAULTS)])
    raise ValueError(
        f'{owner}: there is no function {name!r} to start from; known are {", ".join(known)}, and '
        'the dotted names of functions, such as torch.sin; any other can be passed as a callable'
    )


def named_function(init: str | Function, owner: str = 'PAU') -> Function:
    """Returns the function that a name of :func:`canonical_name` stands for, or init itself.

    Raises:
        ValueError: For an unknown name.
        TypeError: If init is neither a name nor callable.
    """
    if callable(init):
        return init
    name = canonical_name(init, owner)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    function = imported(name)
    if function is not None:
        return function
    stem, value = name.rsplit('_', 1)
    parameter = float(value)
    if stem == 'swish':
        return lambda x: x * torch.sigmoid(parameter * x)
    return lambda x: torch.where(x < 0, parameter * x, x)


def check_function(function: Function, owner: str) -> None:
    """Raises a ValueError, in the name of an activation, if init is no elementwise function."""
    x = torch.zeros(2, dtype=torch.float64, device='cpu')
    try:
        y = function(x)
        good = isinstance(y, Tensor) and y.shape == x.shape
    except Exception as error:
        raise ValueError(f'{owner}: init fails on a float64 tensor: {error}') from error
    if not good:
        raise ValueError(
            f'{owner}: init must give a tensor of the shape of its argument, got {shown(y)}'
        )


def imported(name: str) -> Function | None:
    """The function of a dotted name, None where there is none."""
    if '.' not in name or not all(part.isidentifier() for part in name.split('.')):
        return None
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return None
    return found if callable(found) else None
