# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A normalisation in front of an elementwise op, in the same pass over memory.

``z = (x - mean) / sqrt(var + eps) * weight + bias``, plus a residual, is what a BatchNorm and the
sum of a residual block compute, and the op's function is that of z. z is not written: forward
reads x and writes y; backward computes z again from x, which the gradients of the convolution
before it do not need, but which a BatchNorm keeps anyway.

Where mean and var are x's own, x has gradients through them. The op's backward finds, besides the
gradient gz of z, its sums over each channel, and in a second pass makes of them
``weight / std * (gz - mean(gz) - (x - mean) / var * mean(gz * (x - mean)))``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._library import define
from ._transforms import use_reference
from .reference import opmath_dtype

#: Arguments of an op with a norm, between x and the op's own tensors, and behind its settings.
NORM_TENSORS = 'Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual'
NORM_SETTINGS = 'float eps, bool constant'
_TENSORS, _SETTINGS = 5, 2  # their numbers


@dataclass(eq=False)
class Norm:
    """A normalisation of the channels at dimension 1, and what is added to its result.

    Attributes:
        mean, var: (C,), of all elements of a channel.
        weight, bias: (C,), or None for 1 and 0.
        eps: Added to var.
        residual: Added to the result; of x's shape and dtype.
        constant: Whether mean and var are constants; else they are those of x (var without
            Bessel's correction), and x has gradients through them.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    residual: Tensor | None = None
    constant: bool = False

    def reference(self, x: Tensor) -> Tensor:
        """Returns z, in x's dtype."""
        mean, var = (self.mean, self.var) if self.constant else moments(x)
        return normalise(x, mean, var, self.weight, self.bias, self.residual, self.eps).to(x.dtype)

    def moments(self, groups: int) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of z over each of ``groups`` of neighbouring channels.

        Of a norm with x's own mean and var, and without a residual: what it leaves is known.
        """
        zeros = torch.zeros_like(self.mean)
        mean = zeros if self.bias is None else self.bias.detach().to(zeros.dtype)
        var = self.var / (self.var + self.eps)
        if self.weight is not None:
            var = var * self.weight.detach().to(zeros.dtype).square()
        return pool(mean, var, groups)

    def run(self, name: str, num_tensors: int, x: Tensor, *arguments) -> Tensor:
        """Calls an op, which has so many tensors with x, with this in front."""
        op = getattr(torch.ops.mmact, f'{name}_norm')
        tensors, settings = arguments[: num_tensors - 1], arguments[num_tensors - 1 :]
        own = (self.mean, self.var, self.weight, self.bias, self.residual)
        return op(x, *own, *tensors, *settings, self.eps, self.constant)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and var of each channel of x, (C,) each, differentiable."""
    x = x.to(opmath_dtype(x.dtype))
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x, dims, correction=0)
    return mean, var


def pool(mean: Tensor, var: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Returns mean and variance over each of ``groups`` of neighbouring channels, of (C,) each."""
    mean, var = mean.view(groups, -1), var.view(groups, -1)
    pooled = mean.mean(1)
    return pooled, (var + (mean - pooled.unsqueeze(1)).square()).mean(1)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and var of each channel of x at dimension 1, (C,) each, as constants."""
    x = x.detach()
    if use_reference() or x.numel() == 0:
        return moments(x)
    return torch.ops.mmact.batch_statistics(x, None, None, 0.0)


def _channels(vector: Tensor, x: Tensor) -> Tensor:
    """Shapes (C,) so that it broadcasts against x."""
    return vector.view(-1, *[1] * (x.dim() - 2))


def normalise(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
) -> Tensor:
    """Returns z in the dtype of arithmetic on x: the reference."""
    dtype = opmath_dtype(x.dtype)
    z = (x.to(dtype) - _channels(mean.to(dtype), x)) * _channels((var.to(dtype) + eps).rsqrt(), x)
    if weight is not None:
        z = z * _channels(weight.to(dtype), x)
    if bias is not None:
        z = z + _channels(bias.to(dtype), x)
    return z if residual is None else z + residual.to(dtype)


def with_norm(forward: Callable, backward: Callable, num_tensors: int) -> tuple[Callable, Callable]:
    """Returns forward and backward of an op with a norm from the op's own.

    Args:
        forward: (x, *arguments) -> y, the first ``num_tensors - 1`` arguments being tensors.
        backward: (grad, x, *arguments) -> (gradient of x, those of the learned tensors).
        num_tensors: Tensors of the op, with x.

    Returns:
        (x, *NORM_TENSORS, *tensors, *settings, *NORM_SETTINGS) -> y, and of the same after the
        gradient of y the gradients of x, weight, bias, residual and the learned tensors.
    """

    def split(arguments: tuple) -> tuple:
        tensors, settings = arguments[_TENSORS:], arguments[-_SETTINGS:]
        return *arguments[:_TENSORS], tensors[:-_SETTINGS], *settings

    def forward_with_norm(x: Tensor, *arguments):
        mean, var, weight, bias, residual, own, eps, constant = split(arguments)
        if not constant and torch.is_grad_enabled():  # then x has gradients through them
            mean, var = moments(x)
        z = normalise(x, mean, var, weight, bias, residual, eps)
        return forward(z, *own).to(x.dtype)

    def backward_with_norm(grad: Tensor, x: Tensor, *arguments):
        mean, var, weight, bias, residual, own, eps, constant = split(arguments)
        z = normalise(x, mean, var, weight, bias, residual, eps)
        gz, *learned = backward(grad.to(z.dtype), z, *own)
        dims = [d for d in range(x.dim()) if d != 1]
        g, centered = gz.double(), x.double() - _channels(mean.double(), x)
        inv_std = (var.double() + eps).rsqrt()
        sums, products = g.sum(dims), (g * centered).sum(dims)
        gx = g
        if not constant:
            count = x.numel() // x.size(1)
            slope = products * inv_std.square() / count
            gx = g - _channels(sums / count, x) - centered * _channels(slope, x)
        gx = gx * _channels(inv_std if weight is None else inv_std * weight, x)
        return (
            gx.to(x.dtype),
            None if weight is None else (products * inv_std).to(weight.dtype),
            None if bias is None else sums.to(bias.dtype),
            None if residual is None else gz.to(x.dtype),
            *learned,
        )

    return forward_with_norm, backward_with_norm


def keep(running: Tensor | None, value: Tensor, momentum: float) -> None:
    """Takes the statistics of a batch into BatchNorm's running ones, if there are any."""
    if running is not None:
        running.lerp_(value.to(running.dtype), momentum)


def _batch_statistics(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    mean, var = moments(x)
    keep(running_mean, mean, momentum)
    if running_var is not None:
        count = x.numel() // x.size(1)
        keep(running_var, var * (count / (count - 1)), momentum)
    return mean, var


def _batch_statistics_shape(x: Tensor, *rest):
    dtype = opmath_dtype(x.dtype)
    return x.new_empty(x.size(1), dtype=dtype), x.new_empty(x.size(1), dtype=dtype)


define(
    'batch_statistics(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum) '
    '-> (Tensor, Tensor)',
    _batch_statistics,
    _batch_statistics_shape,
)


def _add_centered_(grad: Tensor, x: Tensor, center: Tensor, factor: Tensor, shift: Tensor) -> None:
    dtype = opmath_dtype(x.dtype)
    center, factor, shift = (_channels(t.to(dtype), x) for t in (center, factor, shift))
    grad.copy_(grad.to(dtype) + factor * (x.to(dtype) - center) + shift)


# grad += factor * (x - center) + shift, (C,) each: what x's gradient gets through statistics.
define(
    'add_centered_(Tensor(a!) grad, Tensor x, Tensor center, Tensor factor, Tensor shift) -> ()',
    _add_centered_,
    lambda *args: None,
)
