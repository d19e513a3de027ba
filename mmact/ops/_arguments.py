# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments, with one message for all: who wants what, under which name, and what it got.

Each returns the value in the plain type that it stands for, so that NumPy's integers and numbers
do as well as Python's. True and False are no numbers here.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

#: What the kernels are built for.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


#: Larger numbers of anything than this are mistakes, and overflow what counts memory.
_MOST = 2**31 - 1


def shown(value: Any) -> str:
    """A value for a message, in one line that is not long."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return 'a nested tensor'
        return f'a tensor of {value.dtype} and shape {tuple(value.shape)}'
    try:
        text = ' '.join(repr(value).split())
    except Exception:
        text = f'an object of {type(value).__name__}'
    return text if len(text) <= 120 else f'{text[:117]}...'


def refuse(owner: str, name: str, wanted: str, value: Any, kind: type = ValueError) -> NoReturn:
    """Raises an error of a kind about an argument."""
    raise kind(f'{owner}: {name} must be {wanted}, got {shown(value)}')


def integer(
    owner: str,
    name: str,
    value: Any,
    low: int | None = None,
    high: int | None = None,
    wanted: str = '',
) -> int:
    """Returns an integer argument as an int.

    Args:
        owner: Who asks, for the message.
        name: The argument's name.
        value: An int, or an integer of NumPy.
        low: Smallest value allowed.
        high: Largest value allowed.
        wanted: What the argument must be, where the bounds do not say it well.

    Raises:
        ValueError: If value is no integer (True, False and 3.0 are none) or out of range.
    """
    if type(value) is int:  # what torch.compile traces
        number = value
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = operator.index(value)
    else:
        refuse(owner, name, wanted or _range_of_integers(low, high), value)
    least, most = (-_MOST if low is None else low), (_MOST if high is None else high)
    if not least <= number <= most:
        refuse(owner, name, wanted or _range_of_integers(low, high), value)
    return number


def positive(owner: str, **values: Any) -> tuple[int, ...]:
    """Returns arguments that must be positive integers as ints."""
    return tuple(integer(owner, name, value, 1) for name, value in values.items())


def optional(owner: str, name: str, value: Any, low: int | None = None) -> int | None:
    """Returns an integer argument as an int, or None where that is given."""
    if value is None:
        return None
    return integer(owner, name, value, low, wanted=f'{_range_of_integers(low, None)} or None')


def _range_of_integers(low: int | None, high: int | None) -> str:
    if high is not None:
        return f'an integer from {low} to {high}'
    if low is None:
        return 'an integer'
    return 'a positive integer' if low == 1 else f'an integer from {low} on'


def number(
    owner: str,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    wanted: str = '',
) -> float:
    """Returns a finite real argument as a float.

    Args:
        owner: Who asks, for the message.
        name: The argument's name.
        value: An int or float, or one of NumPy's.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: It must be larger than this.
        below: It must be smaller than this.
        wanted: What the argument must be, where the bounds do not say it well.

    Raises:
        ValueError: If value is no finite number or out of range.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        finite = -math.inf < result < math.inf  # torch.compile traces no math.isfinite
        if finite and low <= result <= high and above < result < below:
            return result
    return refuse(owner, name, wanted or _range_of_numbers(low, high, above, below), value)


def _range_of_numbers(low: float, high: float, above: float, below: float) -> str:
    ends = {f'>= {low:g}': low, f'> {above:g}': above, f'<= {high:g}': high, f'< {below:g}': below}
    if above == 0 and math.inf in (high, below):
        return 'a positive number'
    bounds = ' and '.join(text for text, end in ends.items() if math.isfinite(end))
    return f'a finite number {bounds}'.rstrip()


def several(owner: str, name: str, values: Any, count: int, wanted: str = '') -> tuple[float, ...]:
    """Returns a sequence of so many finite numbers as floats.

    Raises:
        ValueError: If it is something else.
    """
    wanted = wanted or f'{count} finite numbers'
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        refuse(owner, name, wanted, values)
    if isinstance(values, Tensor) and values.dim() != 1:
        refuse(owner, name, wanted, values)
    try:
        found = values.tolist() if isinstance(values, Tensor) else list(values)
    except TypeError:  # an array without dimensions
        refuse(owner, name, wanted, values)
    if len(found) != count:
        refuse(owner, name, wanted, values)
    try:
        return tuple(number(owner, name, value) for value in found)
    except ValueError:
        refuse(owner, name, wanted, values)


def sequence(owner: str, name: str, values: Any, wanted: str = 'a sequence') -> tuple[Any, ...]:
    """Returns an argument that is a list or tuple, or another sequence but a word, as a tuple.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        refuse(owner, name, wanted, values)
    return tuple(values)


def indices(
    owner: str,
    name: str,
    values: Any,
    low: int,
    high: int | None = None,
    wanted: str = '',
) -> tuple[int, ...]:
    """Returns a sequence of integers as ints.

    Raises:
        ValueError: If it is something else, or one is out of range.
    """
    end = f'from {low} on' if high is None else f'from {low} to {high}'
    wanted = wanted or f'a sequence of integers {end}'
    found = sequence(owner, name, values, wanted)
    try:
        return tuple(integer(owner, name, value, low, high) for value in found)
    except ValueError:
        refuse(owner, name, wanted, values)


def choice(owner: str, name: str, value: Any, options: Iterable[str], wanted: str = '') -> str:
    """Returns an argument that is one of several words.

    Raises:
        ValueError: If it is none of them.
    """
    options = tuple(options)
    if not isinstance(value, str) or value not in options:
        words = [repr(option) for option in options]
        listed = f'{", ".join(words[:-1])} or {words[-1]}'
        refuse(owner, name, wanted or listed, value)
    return value


def one_of(owner: str, name: str, value: Any, kinds: Any, wanted: str) -> Any:
    """Returns an argument that is of one of several classes.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, kinds):
        refuse(owner, name, wanted, value, TypeError)
    return value


def module(owner: str, value: Any, name: str = 'model') -> nn.Module:
    """Returns an argument that is a module.

    Raises:
        TypeError: If it is something else.
    """
    return one_of(owner, name, value, nn.Module, 'a torch.nn.Module')


def matrix(owner: str, name: str, value: Any, rows: int | None = None) -> Tensor:
    """Returns an argument that is a dense floating-point tensor of two dimensions.

    Raises:
        TypeError: If it is no such tensor.
        ValueError: If it has another shape.
    """
    wanted = f'of shape ({rows or "C"}, K)'
    if dense_floats(owner, name, value).dim() != 2 or rows not in (None, value.size(0)):
        refuse(owner, name, wanted, value)
    return value


def flag(owner: str, name: str, value: Any) -> bool:
    """Returns an argument that is True or False.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, bool):
        refuse(owner, name, 'True or False', value, TypeError)
    return value


def dense_floats(owner: str, name: str, value: Any) -> Tensor:
    """Returns an argument that is a dense floating-point tensor.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, Tensor) or value.dtype not in DTYPES:
        names = ', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)
        got = value if not isinstance(value, Tensor) else value.dtype
        refuse(owner, name, f'a floating-point tensor of {names}', got, TypeError)
    if value.layout is not torch.strided or value.is_nested:
        kind = 'nested' if value.is_nested else value.layout
        refuse(owner, name, 'a dense tensor', kind, TypeError)
    return value


def parameters(owner: str, x: Tensor, **values: Any) -> None:
    """Checks tensors that go with x.

    Raises:
        TypeError: If one is no dense floating-point tensor.
        ValueError: If one is on another device than x.
    """
    for name, value in values.items():
        dense_floats(owner, name, value)
        if value.device != x.device:
            raise ValueError(f'{owner}: {name} is on {value.device}, but x is on {x.device}')
