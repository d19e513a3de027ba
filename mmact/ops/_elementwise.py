# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Elementwise ops: how they are defined, from a schema and a reference, and called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import refuse
from ._compat import TAGGED, register_autograd
from ._library import LIBRARY, define, dense, once_differentiable
from ._transforms import gradients, use_reference
from .norm import NORM_SETTINGS, NORM_TENSORS, Norm, with_norm


class Elementwise(NamedTuple):
    """What :func:`call` has to know of an op."""

    reference: Callable
    num_tensors: int  # with x


_OPS: dict[str, Elementwise] = {}


def call(
    name: str, x: Tensor, *arguments, norm: Norm | None = None, exported: Callable | None = None
) -> Tensor:
    """Calls an elementwise op, or its reference where that has to answer.

    Args:
        name: Name of the op without namespace.
        x: Its input.
        *arguments: Its other arguments.
        norm: What stands in front of it.
        exported: The reference's form for ONNX, if that is another.
    """
    if norm is not None and not isinstance(norm, Norm):
        refuse(name, 'norm', 'a Norm', norm, TypeError)
    if use_reference():
        form = exported if torch.onnx.is_in_onnx_export() else None
        z = x if norm is None else norm.reference(x)
        return (form or _OPS[name].reference)(z, *arguments)
    if norm is not None:
        return norm.run(name, _OPS[name].num_tensors, x, *arguments)
    return getattr(torch.ops.mmact, name)(x, *arguments)


def define_elementwise(
    name: str,
    arguments: str,
    learned: tuple[int, ...],
    forward: Callable,
    backward: Callable,
    *,
    quick: Callable | None = None,
    residual: int | None = None,
    differentiable: str | None = None,
    norm: bool = True,
) -> None:
    """Defines ``name(Tensor x, ARGUMENTS) -> Tensor`` and ``name_bwd``, with their derivatives.

    The result is like x. ``name_bwd`` takes its gradient and the same arguments; it returns
    gradients of x and of the learned tensors, in their shapes and dtypes (empty ones for tensors
    that are None).

    Args:
        name: Name of the op without namespace.
        arguments: The schema's arguments after x, tensors first.
        learned: Positions of the tensors that have gradients, counted with x as 0.
        forward: The reference: (x, *arguments) -> y, in operations that autograd differentiates.
            It answers second derivatives too.
        backward: The reference's gradients: (grad, x, *arguments) -> (gradient of x, those of the
            learned tensors).
        quick: Takes forward's place where no derivative is asked for.
        residual: Position of a learned tensor that is like x, and so is its gradient.
        differentiable: Where users find ``forward``; by default ``mmact.ops.reference.NAME``.
        norm: Whether to define ``name_norm`` too, the same with a normalisation in front (see
            :mod:`mmact.ops.norm`).
    """
    num_tensors = 1 + arguments.count('Tensor')
    _OPS[name] = Elementwise(forward, num_tensors)
    targets, like_x = (0, *learned), (0, residual)

    def eager(x: Tensor, *rest):
        return dense(x, (quick or forward)(x, *rest))

    def eager_bwd(grad: Tensor, x: Tensor, *rest):
        found = zip(targets, backward(grad, x, *rest), strict=True)
        return tuple(
            x.new_empty(0) if g is None else dense(x, g) if i in like_x else g for i, g in found
        )

    def fake(x: Tensor, *rest):
        return torch.empty_like(x)

    def fake_bwd(grad: Tensor, *inputs):
        x = inputs[0]

        def gradient(i: int) -> Tensor:
            if inputs[i] is None:
                return x.new_empty(0)
            return torch.empty_like(x) if i in like_x else inputs[i].new_empty(inputs[i].shape)

        return tuple(gradient(i) for i in targets)

    results = ', '.join(['Tensor'] * len(targets))
    define(f'{name}(Tensor x, {arguments}) -> Tensor', eager, fake)
    define(f'{name}_bwd(Tensor grad, Tensor x, {arguments}) -> ({results})', eager_bwd, fake_bwd)

    def differentiable_bwd(grad: Tensor, *inputs):
        tensors, settings = inputs[:num_tensors], inputs[num_tensors:]

        def function(*wanted):
            given = dict(zip(targets, wanted, strict=True))
            return forward(*(given.get(i, t) for i, t in enumerate(tensors)), *settings)

        found = gradients(function, [tensors[i] for i in targets], grad)
        return tuple(inputs[0].new_empty(0) if g is None else g for g in found)

    LIBRARY.define(
        f'{name}_bwd_differentiable(Tensor grad, Tensor x, {arguments}) -> ({results})', **TAGGED
    )
    LIBRARY.impl(f'{name}_bwd_differentiable', differentiable_bwd, 'CompositeImplicitAutograd')

    def setup_context(ctx: Any, inputs: tuple, output: Any):
        ctx.save_for_backward(*inputs[:num_tensors])
        ctx.settings = inputs[num_tensors:]

    def run_backward(ctx: Any, grad: Tensor):
        suffix = 'bwd_differentiable' if torch.is_grad_enabled() else 'bwd'
        op = getattr(torch.ops.mmact, f'{name}_{suffix}')
        found = op(grad, *ctx.saved_tensors, *ctx.settings)
        given: list[Tensor | None] = [None] * (num_tensors + len(ctx.settings))
        for i, g in zip(targets, found, strict=True):
            if ctx.needs_input_grad[i]:
                given[i] = g
        return tuple(given)

    # The extension brings its own.
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f'mmact::{name}', 'Autograd'):
        register_autograd(f'mmact::{name}', run_backward, setup_context=setup_context, lib=LIBRARY)
    once_differentiable(name, differentiable)
    if norm:
        parts = arguments.replace('=False', '').split(', ')
        own, settings = parts[: num_tensors - 1], parts[num_tensors - 1 :]
        define_elementwise(
            f'{name}_norm',
            ', '.join([NORM_TENSORS, *own, *settings, NORM_SETTINGS]),
            (3, 4, 5, *(5 + i for i in learned)),
            *with_norm(forward, backward, num_tensors),
            residual=5,
            differentiable=differentiable or f'mmact.ops.reference.{name}',
            norm=False,
        )
