# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ``mmact`` operator library: finds the compiled kernels, falls back to the eager reference.

Each op file defines a schema here and gives an eager implementation. Where the compiled extension
``mmact._C`` has a kernel for the device of the arguments, the dispatcher prefers it; otherwise the
eager implementation runs and says so once.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._arguments import integer, one_of, parameters, refuse
from ._compat import TAGGED, register_autograd, register_fake
from ._transforms import use_reference

LIBRARY = torch.library.Library('mmact', 'DEF')

try:
    importlib.import_module('mmact._C')
    EXTENSION_ERROR = None
except ImportError as error:
    # Not an error yet: a pure-Python install is supported. The text is kept for the warning,
    # because a broken extension (other torch, missing library) looks the same from outside. Where
    # the build knew why there would be none, its reason is the better one.
    reason = Path(__file__).resolve().parents[1] / 'no_kernels.txt'
    EXTENSION_ERROR = reason.read_text() if reason.is_file() else str(error)


def has_kernel(name: str, device_type: str) -> bool:
    """Tells whether a compiled kernel of an op exists for a device.

    Args:
        name: Name of the op without namespace, for example ``'pwlu'``.
        device_type: ``'cpu'``, ``'cuda'`` or any other dispatch key that PyTorch knows.

    Raises:
        TypeError: If one is no word.
        ValueError: If there is no such dispatch key.
    """
    one_of('has_kernel', 'name', name, str, 'the name of an op')
    one_of('has_kernel', 'device_type', device_type, str, 'a dispatch key')
    if not (name.isidentifier() and name.isascii() and hasattr(torch.ops.mmact, name)):
        refuse('has_kernel', 'name', 'the name of an op', name)
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f'mmact::{name}', device_type.upper())
    except RuntimeError:
        refuse('has_kernel', 'device_type', 'a dispatch key that PyTorch knows', device_type)


@functools.cache
def _warn_eager(device_type: str) -> None:
    reason = f' ({EXTENSION_ERROR})' if EXTENSION_ERROR else ''
    warnings.warn(
        f'mmact has no compiled kernels for {device_type} tensors{reason}; its slower eager '
        f'implementation is used. To build them: pip install -v --no-build-isolation . in a clone '
        f'of mmact, with a C++ compiler (and MMACT_CUDA=1 with nvcc for CUDA).',
        stacklevel=4,
    )


def define(schema: str, eager: Callable, fake: Callable) -> None:
    """Defines an op with its eager implementation and its shape function.

    Args:
        schema: The op's schema without namespace, ``'name(Tensor x, ...) -> Tensor'``.
        eager: Implementation in PyTorch operations, used for every device without a kernel.
        fake: Returns empty tensors of the shapes, strides and dtypes of the result.
    """
    name = schema[: schema.index('(')]

    @functools.wraps(eager)
    def run_eager(*args):
        _warn_eager(args[0].device.type)
        return eager(*args)

    LIBRARY.define(schema, **TAGGED)
    LIBRARY.impl(name, run_eager, 'CompositeExplicitAutograd')
    register_fake(f'mmact::{name}', fake, lib=LIBRARY)


def dense(like: Tensor, result: Tensor) -> Tensor:
    """The result in the memory format that the kernels and the fake kernels promise."""
    if use_reference():
        return result  # where memory is not ours to lay out
    out = torch.empty_like(like)
    return result if result.stride() == out.stride() else out.copy_(result)


def once_differentiable(name: str, reference: str | None = None) -> None:
    """Makes the backward op ``name_bwd`` say that there are no second derivatives.

    Args:
        name: Name of the op that it belongs to.
        reference: What to use instead; by default the function of that name in
            ``mmact.ops.reference``.
    """
    reference = reference or f'mmact.ops.reference.{name}'

    def refuse(ctx: Any, *grads):
        raise RuntimeError(
            f'mmact.ops.{name} is differentiable once; for second derivatives use {reference}, '
            f'which autograd can differentiate again'
        )

    register_autograd(f'mmact::{name}_bwd', refuse, lib=LIBRARY)


def check_vectors(name: str, x: Tensor, **vectors: Tensor) -> int:
    """Checks parameters that go with x, as _arguments.parameters does, and are of one length.

    Returns:
        The length.

    Raises:
        ValueError: If they are not vectors of one length.
    """
    parameters(name, x, **vectors)
    first = next(iter(vectors.values()))
    for p in vectors.values():
        if p.dim() != 1 or p.size(0) == 0 or p.shape != first.shape:
            shapes = ', '.join(f'{key} {tuple(q.shape)}' for key, q in vectors.items())
            raise ValueError(f'{name}: {", ".join(vectors)} must have one shape (G,), got {shapes}')
    return first.size(0)


def check_groups(name: str, x: Tensor, groups: int, channel_dim: int) -> int:
    """Raises a ValueError unless the channels of x can be shared by sets of parameters.

    Args:
        name: The op that asks.
        x: Its input.
        groups: Number of sets of parameters: 1, the number of channels, or a divisor of it.
        channel_dim: Dimension of the channels; ignored if ``groups`` is 1.

    Returns:
        channel_dim counted from the front.
    """
    channel_dim = integer(name, 'channel_dim', channel_dim)
    if groups == 1:
        return 0
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(
            f'{name}: channel_dim={channel_dim} is not a dimension of x of shape {tuple(x.shape)}'
        )
    if x.size(channel_dim) % groups or x.size(channel_dim) == 0:
        raise ValueError(
            f'{name}: x has {x.size(channel_dim)} channels at dimension {channel_dim} (shape '
            f'{tuple(x.shape)}), which {groups} sets of parameters cannot share evenly; set '
            f'num_channels and channel_dim to fit (channel_dim=-1 for channel-last tokens)'
        )
    return channel_dim % x.dim()
