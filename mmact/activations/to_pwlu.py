# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of any scalar activation into a PWLU, for deployment.

Section 4.3 of the PWLU paper evaluates a piecewise-linear function on uniform intervals with one
multiply-add and two look-ups; so every function that a network has learned can be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops._arguments import number, optional, refuse
from .base import ChannelActivation, functions_of
from .ditac import DiTAC
from .pwlu import PWLU

#: Numbers of intervals that are tried: even, so that the middle of the bounds is a point.
_CANDIDATES = (2, 4, 6, *(k << n for n in range(2, 12) for k in (2, 3)), 8192)

#: The error is measured at this many points in each interval, and at _LEAST_SAMPLES at least.
_SAMPLES = 32
_LEAST_SAMPLES = 16384


class _Rows:
    """An activation in evaluation and float64, as a function of rows: (C, M) to (C, M)."""

    def __init__(self, activation: nn.Module) -> None:
        self.name = type(activation).__name__
        function, self.channels = functions_of(activation)
        self.channel_dim = getattr(activation, 'channel_dim', None)
        parameter = next((p for p in activation.parameters() if p.is_floating_point()), None)
        self.like = torch.empty(0) if parameter is None else parameter.detach()
        self.function = function.double().eval()
        self._check_elementwise(getattr(activation, 'elementwise', True))

    def _apply(self, x: Tensor) -> Tensor:
        """The activation on (1, C, M, K), wherever it has its channels."""
        dim = 1 if self.channel_dim is None else self.channel_dim
        return self.function(x.movedim(1, dim)).movedim(dim, 1)

    def __call__(self, rows: Tensor) -> Tensor:
        y = self._apply(rows.expand(self.channels, -1)[None, :, :, None])[0, :, :, 0]
        if not y.isfinite().all():
            raise ValueError(f'to_pwlu: {self.name} is not finite on the bounds; narrow them')
        return y

    def _check_elementwise(self, same: bool) -> None:
        # A trial finds out if a layer does not say so itself.
        if same:
            g = torch.Generator().manual_seed(0)
            shape = (1, self.channels if self.channels > 1 else 3, 8, 8)
            x, other = (2 * torch.randn(shape, dtype=torch.float64, generator=g) for _ in 'xy')
            changed = torch.rand(shape, generator=g) < 0.5
            x, other, changed = (t.to(self.like.device) for t in (x, other, changed))
            with torch.no_grad():
                y, z = self._apply(x.clone()), self._apply(torch.where(changed, other, x))
            same = y.shape == x.shape and torch.allclose(y[~changed], z[~changed], 1e-9, 1e-9)
        if not same:
            raise ValueError(
                f'to_pwlu: {self.name} is not elementwise (an output depends on more than the '
                f'input at its place), so no table of one number can replace it'
            )

    def slopes(self, points: Tensor) -> Tensor:
        """The derivative at M points, (C, M)."""
        with torch.enable_grad():
            x = points.expand(self.channels, -1).clone().requires_grad_()
            y = self(x * 1)
            if not y.requires_grad:
                return torch.zeros_like(x)
            return torch.autograd.grad(y.sum(), x)[0]


@torch.no_grad()
def _interpolate(f: _Rows, num_intervals: int, left: float, right: float) -> tuple[PWLU, float]:
    """The PWLU through f's values at the ends of the intervals, and its largest error."""

    def grid(count: int) -> Tensor:
        return torch.linspace(left, right, count + 1, dtype=torch.float64, device=f.like.device)

    layer = PWLU(
        num_intervals=num_intervals,
        bounds=(left, right),
        num_groups=f.channels,
        channel_dim=f.channel_dim,
    ).to(f.like)
    layer.rows('points').copy_(f(grid(num_intervals)))
    # From outside: a bound may be where the function has a corner.
    margin = 1e-6 * (right - left)
    slopes = f.slopes(grid(1) + grid(1).new_tensor([-margin, margin]))
    layer.left_slope.copy_(slopes[:, 0])
    layer.right_slope.copy_(slopes[:, 1])
    # The parameters as they are stored, evaluated without rounding. The number of samples is a
    # multiple of num_intervals plus 1, so that they wander through the intervals.
    samples = grid(num_intervals * max(_SAMPLES, -(-_LEAST_SAMPLES // num_intervals)) + 1)
    error = _Rows(layer)(samples) - f(samples)
    return layer, error.abs().max().item()


def _grid(activation: nn.Module) -> tuple[float, float, int]:
    """Bounds to take, and a number that the number of intervals is to be a multiple of.

    DiTAC has corners at the ends of its domain: intervals that end there need not be narrow because
    of them. Where it goes on in straight lines the bounds are those ends; GELU is straight enough
    from 5 on (to 2e-5 at 8).
    """
    if not isinstance(activation, DiTAC):
        return -8.0, 8.0, 1
    a, b = activation.domain
    if activation.version == 'leaky' and a != 0:  # outside are corners, or a jump
        return -8.0, 8.0, 1
    left, right = (a if activation.version in ('leaky', 'inf') else -5.0), b
    if activation.version == 'gelu':
        right = 5.0
    unit = (b - a) / math.ceil(2 * (b - a))
    below, above = (math.ceil(max(n, 0) / unit - 1e-9) for n in (a - left, right - b))
    return a - below * unit, b + above * unit, below + above + round((b - a) / unit)


def _take_channels(layer: PWLU, activation: nn.Module) -> None:
    """Gives the layer the activation's own words for the channels that its functions are for."""
    if isinstance(activation, ChannelActivation):
        layer.num_channels, layer.num_groups = activation.num_channels, activation.num_groups
    elif layer.num_functions > 1:
        layer.num_channels, layer.num_groups = layer.num_functions, None


def to_pwlu(
    activation: nn.Module,
    num_intervals: int | None = None,
    max_error: float = 1e-3,
    bounds: tuple[float, float] | None = None,
) -> tuple[PWLU, float]:
    """Converts a scalar activation, as it is in evaluation, into a PWLU.

    The PWLU passes through the activation's values at the ends of uniform intervals, and goes on
    outside of the bounds with its slopes there. It is in the phase 'learn', so that training may go
    on; ``freeze()`` keeps it as it is.

    Args:
        activation: A layer that maps every element by itself: mmact's (DiTAC, PAU, AReLU, ...) or
            PyTorch's (SiLU, PReLU, ...), for a layer or for channels. It is not changed.
        num_intervals: N of the PWLU. None: the smallest of 2, 4, 6, 8, 12, 16, 24, ..., 8192 (of
            their multiples that fit, for DiTAC) with which the error is at most max_error.
        max_error: Largest absolute error allowed between the bounds.
        bounds: Bounds of the PWLU. None: (-8, 8), for DiTAC such that the ends of its domain are
            ends of intervals. Outside, the error is that of continuing in a straight line.

    Returns:
        The PWLU, with dtype, device and training mode of the activation, and the largest error
        between the bounds, measured at 32 points or more in each interval (16384 or more in all) in
        float64 with the parameters as they are stored.

    Raises:
        ValueError: If the activation is not elementwise (FReLU, Maxout, Dynamic ReLU, Softmax),
            if max_error cannot be reached, or if an argument is out of range.
        RuntimeError: If the activation does not know its number of channels.

    Example:
        >>> layer, error = to_pwlu(torch.nn.SiLU())
    """
    num_intervals = optional('to_pwlu', 'num_intervals', num_intervals, 1)
    max_error = number('to_pwlu', 'max_error', max_error, above=0)
    if not isinstance(activation, nn.Module):
        refuse('to_pwlu', 'activation', 'a module', activation, TypeError)
    f = _Rows(activation)
    left, right, multiple = _grid(activation)
    if bounds is not None:
        (left, right), multiple = PWLU(1, bounds=bounds).bounds, 1
    candidates = [multiple * n for n in _CANDIDATES if multiple * n <= _CANDIDATES[-1]]
    for count in candidates if num_intervals is None else (num_intervals,):
        layer, error = _interpolate(f, count, left, right)
        if error <= max_error:
            _take_channels(layer, activation)
            return layer.train(activation.training), error
    raise ValueError(
        f'to_pwlu: with num_intervals={count} on [{left}, {right}] the error of {f.name} is '
        f'{error:.3g}, above max_error={max_error:g}; allow more intervals or a larger error, or '
        f'narrow the bounds (a function that jumps cannot be reached)'
    )
