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

import torch

LIBRARY = torch.library.Library('mmact', 'DEF')

try:
    importlib.import_module('mmact._C')
    EXTENSION_ERROR = None
except ImportError as error:
    # Not an error yet: a pure-Python install is supported. The text is kept for the warning,
    # because a broken extension (other torch, missing library) looks the same from outside.
    EXTENSION_ERROR = str(error)


def has_kernel(name: str, device_type: str) -> bool:
    """Tells whether a compiled kernel of an op exists for a device.

    Args:
        name: Name of the op without namespace, for example ``'pwlu'``.
        device_type: ``'cpu'``, ``'cuda'`` or any other dispatch key that PyTorch knows.
    """
    return torch._C._dispatch_has_kernel_for_dispatch_key(f'mmact::{name}', device_type.upper())


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

    LIBRARY.define(schema, tags=[torch.Tag.pt2_compliant_tag])
    LIBRARY.impl(name, run_eager, 'CompositeExplicitAutograd')
    torch.library.register_fake(f'mmact::{name}', fake, lib=LIBRARY)
