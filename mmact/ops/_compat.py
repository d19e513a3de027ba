# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The differences between the versions of PyTorch that mmact runs on, from 2.1 on.

Ops import these names from here instead of from ``torch.library`` and ``torch.compiler``. With
torch 2.4 and later they are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import torch.onnx

#: PyTorch's version, (major, minor).
VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])

if VERSION < (2, 1):
    raise ImportError(f'mmact needs torch 2.1 or later, found {torch.__version__}')

#: What every op's definition says besides its schema. The tag, and the argument that it goes to,
#: came after torch 2.1, where nothing asks for it.
TAGGED = {'tags': [torch.Tag.pt2_compliant_tag]} if hasattr(torch.Tag, 'pt2_compliant_tag') else {}

# torch.compiler.is_compiling came with torch 2.2.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling


if hasattr(torch.library, 'register_autograd'):

    def transforms_active() -> bool:
        """Whether a transform of torch.func is active."""
        return torch._C._are_functorch_transforms_active()
else:

    def transforms_active() -> bool:
        """torch 2.1 to 2.3, whose compiler neither traces the question nor the transforms."""
        return not is_compiling() and torch._C._are_functorch_transforms_active()


def _register_fake(name: str, function: Callable | None = None, /, *, lib: torch.library.Library):
    """torch 2.1 to 2.3: register_fake, made of a kernel for meta tensors."""
    if function is None:
        return lambda function: _register_fake(name, function, lib=lib)
    lib.impl(name.partition('::')[2], function, 'Meta')
    return function


def _register_autograd(
    name: str,
    backward: Callable,
    /,
    *,
    setup_context: Callable | None = None,
    lib: torch.library.Library,
) -> None:
    """torch 2.1 to 2.3: register_autograd, made of an autograd function under the Autograd key."""
    namespace, _, short = name.partition('::')
    op = getattr(getattr(torch.ops, namespace), short).default

    def forward(ctx: Any, *args):
        with torch._C._AutoDispatchBelowAutograd():
            result = op(*args)
        if setup_context is not None:
            setup_context(ctx, args, result)
        return result

    function: Any = type(
        f'{short}_function',
        (torch.autograd.Function,),
        {'forward': staticmethod(forward), 'backward': staticmethod(backward)},
    )
    lib.impl(short, lambda *args: function.apply(*args), 'Autograd')


register_fake = getattr(torch.library, 'register_fake', _register_fake)
register_autograd = getattr(torch.library, 'register_autograd', _register_autograd)


def _unravel_index(index: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """torch 2.1: torch.unravel_index."""
    result = []
    for size in reversed(shape):
        result.append(index % size)
        index = index // size
    return tuple(reversed(result))


def _expm1_to_0(x: torch.Tensor) -> torch.Tensor:
    """torch 2.1, whose elu is exp(x) - 1, which cancels near 0."""
    return F.elu(x) if torch.onnx.is_in_onnx_export() else torch.expm1(x)


# exp(x) - 1 of numbers up to 0, by an operation that ONNX has.
expm1_to_0 = F.elu if VERSION >= (2, 2) else _expm1_to_0

unravel_index = getattr(torch, 'unravel_index', _unravel_index)


def uncompiled() -> AbstractContextManager:
    """A context in which compiled functions run as they were written, so that hooks are called.

    Before torch 2.6 it does nothing, and compiled functions pass hooks by that came after them.
    """
    if hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return nullcontext()
