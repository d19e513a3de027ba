# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PWLU: the Piecewise Linear Unit and its two learning phases.

Paper: Zhou, Zhu, Zhong, Learning specialized activation functions with the Piecewise Linear Unit,
ICCV 2021. No official code was published.

Where the paper leaves a choice:

- Eq. 5 does not say where the running statistics start: each channel's at those of the first batch
  in which they are finite and not zero.
- std(x) of Eq. 5 is the population's (no Bessel correction), so that one element is enough.
- Eq. 6 is ReLU on the aligned bounds only where they enclose 0, as they do after BatchNorm. Taken
  literally, as here, a channel with B_L > 0 becomes constant below it, and one with B_R < 0 a
  shifted ReLU.
- Functions other than ReLU (``init``) are sampled as Eq. 6 samples ReLU. The outer slopes are the
  function's at the bounds, of a bound beyond 0 its slope on that side of 0: 0 and 1 for ReLU.
- Under activation checkpointing a batch passes twice, and counts twice in Eq. 5.
- Eq. 6 on a channel without variance gives an empty interval: the width is at least
  :attr:`PWLU.MIN_WIDTH`, and at least 0.2 % of the distance of the mean from zero.
- Nothing in section 3 keeps the bounds from crossing: :func:`mmact.ops.pwlu` acts as if they stood
  a hair apart, with gradients that can open them again; :meth:`PWLU.separate_bounds_` moves them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import pwlu
from ..ops._arguments import number, positive, refuse, several
from ..ops._compat import is_compiling
from ..ops.norm import Norm, pool, statistics
from ..ops.reference import PWLU_MIN_WIDTH
from .base import ChannelActivation
from .functions import Function, check_function, named_function

_PHASES = ('learn', 'collect', 'fixed')  # a phase's index is what the phase_id buffer holds


class PWLU(ChannelActivation):
    """Piecewise Linear Unit (Eq. 1), learned per channel, per group of channels or per layer.

    Built alone it is ReLU on symmetric bounds and learns at once. The paper's procedure (section
    3.3) first holds it there and collects statistics of its input (:meth:`start_collecting`),
    then aligns the bounds with them and learns (:meth:`realign`); in MMEngine the
    ``PWLURealignHook`` calls both. In every phase the function is that of the parameters; the phase
    decides about gradients and statistics. It is part of the state_dict.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        num_intervals: N, the number of intervals between the bounds. The paper recommends 8 to 16
            (section 4.5). Even, so that 0 is a demarcation point and the initial function is
            exactly ReLU; with an odd N it cuts the corner at 0.
        bounds: Initial (B_L, B_R).
        init: Function that it starts as, and that :meth:`realign` samples on the aligned bounds: a
            name (see :func:`mmact.activations.functions.canonical_name`) or an elementwise function
            of a tensor. The paper's is ReLU.
        stat_momentum: Weight of the old value in the running statistics of Eq. 5.
        num_groups: Number of functions G. None: one for each channel (the paper's setting); 1: one
            for the layer, which needs no number of channels; a divisor of C: groups of
            neighbouring channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape with C channels at ``channel_dim``; dtype and memory
        format are kept.

    Attributes:
        left_bound, right_bound: B_L and B_R, (G,).
        left_slope, right_slope: K_L and K_R, (G,).
        points: Y_P, flat; ``rows('points')`` is (G, N + 1).
        running_mean, running_std: The statistics of Eq. 5, (G,).

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.

    Example:
        >>> act = PWLU(num_channels=64)
        >>> act(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    paper = (
        'Zhou, Zhu, Zhong, Learning specialized activation functions with the Piecewise Linear '
        'Unit, ICCV'
    )
    year = 2021
    parameter_count = (21, 'channel')
    elementwise_op = 'pwlu'

    left_bound: nn.Parameter
    right_bound: nn.Parameter
    left_slope: nn.Parameter
    right_slope: nn.Parameter
    points: nn.Parameter
    running_mean: Tensor
    running_std: Tensor
    num_batches_tracked: Tensor
    phase_id: Tensor

    #: Smallest width of [left_bound, right_bound] that realign() and separate_bounds_() leave.
    MIN_WIDTH = 1e-2

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        num_intervals: int = 16,
        bounds: tuple[float, float] = (-3.0, 3.0),
        init: str | Function = 'relu',
        stat_momentum: float = 0.9,
        num_groups: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        owner = type(self).__name__
        (self.num_intervals,) = positive(owner, num_intervals=num_intervals)
        wanted = f'two finite numbers, the left one smaller by {self.MIN_WIDTH} or more'
        left, right = several(owner, 'bounds', bounds, 2, wanted)
        if right - left < self.MIN_WIDTH:
            refuse(owner, 'bounds', wanted, bounds)
        self.bounds = (left, right)
        self.init = init
        self._function = named_function(init, owner)
        check_function(self._function, owner)
        self.stat_momentum = number(owner, 'stat_momentum', stat_momentum, 0, below=1)
        # A copy of the phase_id buffer that forward can read without waiting for a GPU. No value
        # depends on it.
        self._phase = 'learn'
        self._unattended = False  # in phase I by a state dict, and nobody who would end it
        self._waiting: list[tuple[Tensor, Tensor]] | None = None  # held statistics
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates the parameters, as ``init`` on the initial bounds, and the buffers."""
        for name in ('left_bound', 'right_bound', 'left_slope', 'right_slope'):
            setattr(self, name, nn.Parameter(torch.empty(num_functions)))
        self.points = nn.Parameter(torch.empty(num_functions * (self.num_intervals + 1)))
        self.register_buffer('running_mean', torch.zeros(num_functions))
        self.register_buffer('running_std', torch.zeros(num_functions))
        self.register_buffer('num_batches_tracked', torch.tensor(0))
        self.register_buffer('phase_id', torch.tensor(_PHASES.index('learn')))
        left, right = self.bounds
        self._reset(torch.full((num_functions,), left), torch.full((num_functions,), right))

    @torch.no_grad()
    def _reset(self, left: Tensor, right: Tensor) -> None:
        """Samples ``init`` on [left, right]; of ReLU that is Eq. 6."""
        self.left_bound.copy_(left)
        self.right_bound.copy_(right)
        # Each end is counted from the nearer bound in float64: on symmetric bounds the middle point
        # is then exactly 0.
        left, right = (
            b.detach().double().unsqueeze(1) for b in (self.left_bound, self.right_bound)
        )
        share = torch.arange(self.num_intervals + 1).to(left) / self.num_intervals
        self.rows('points').copy_(self._function(left * (1 - share) + right * share))
        margin = 1e-6 * (right - left)
        slopes = (left.clamp(max=0) - margin, right.clamp(min=0) + margin)
        self.left_slope.copy_(_derivative(self._function, slopes[0].squeeze(1)))
        self.right_slope.copy_(_derivative(self._function, slopes[1].squeeze(1)))

    # The two phases -------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """``'collect'`` (phase I), ``'learn'`` (phase II) or ``'fixed'`` (kept as it is)."""
        return self._phase

    def _set_phase(self, phase: str) -> None:
        self.require_resolved()
        self._phase = phase
        self._unattended = False
        self.phase_id.fill_(_PHASES.index(phase))

    def start_collecting(self) -> None:
        """Begins phase I: the function is held, training batches are counted into the statistics.

        Parameters get zero gradients. Statistics collected earlier are forgotten.
        """
        self._set_phase('collect')
        self.running_mean.zero_()
        self.running_std.zero_()
        self.num_batches_tracked.zero_()

    def realign(self) -> None:
        """Begins phase II: bounds at mean +- 3 std, ``init`` sampled on them (Eq. 6), learning on.

        Raises:
            RuntimeError: If no statistics were collected.
        """
        self.require_resolved()
        if int(self.num_batches_tracked) == 0:
            raise RuntimeError(
                'PWLU.realign() needs statistics: call start_collecting() and run training batches '
                'through the model first'
            )
        mean, std = self.running_mean, self.running_std
        half = torch.maximum(3 * std, (1e-3 * mean.abs()).clamp(min=self.MIN_WIDTH / 2))
        self._reset(mean - half, mean + half)
        self._set_phase('learn')

    def freeze(self) -> None:
        """Keeps the function as it is: parameters get zero gradients from now on."""
        self._set_phase('fixed')

    def expect_realignment(self) -> None:
        """Says that phase I, which a state dict has brought, will be ended: no warning is due."""
        self._unattended = False

    def hold_statistics(self) -> None:
        """Keeps the statistics of coming batches back until :meth:`count_statistics`."""
        self._waiting = []

    def held_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Returns (mean, variance), (G,) each, of every batch since :meth:`hold_statistics`."""
        return self._waiting or []

    def count_statistics(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Takes the statistics of batches into the running ones (Eq. 5) in the order given.

        Distributed trainings give it what they have pooled of :meth:`held_statistics`.
        """
        self._waiting = None
        for mean, var in batches:
            self._count(mean, var)

    @property
    def sees_input(self) -> bool:
        """Whether forward collects statistics."""
        return self._phase == 'collect' and self.training

    @torch.no_grad()
    def separate_bounds_(self) -> None:
        """Moves right bounds that came closer to the left one than MIN_WIDTH, or crossed it."""
        self.require_resolved()
        torch.maximum(self.right_bound, self.left_bound + self.MIN_WIDTH, out=self.right_bound.data)

    @torch.no_grad()
    def _collect(self, x: Tensor, norm: Norm | None) -> None:
        """Eq. 5."""
        if x.numel() == 0:
            return
        groups, dim = self.num_functions, self._dim(x)
        if norm is not None:
            self._take(*norm.moments(groups))
            return
        # Also an input that has no dimension but the channels has one to average over.
        x = x.movedim(dim, 1) if groups > 1 and x.dim() > 1 else x
        x = x.reshape(1, -1) if x.dim() < 2 else x
        self._take(*pool(*statistics(x), groups))

    def _take(self, mean: Tensor, var: Tensor) -> None:
        if self._waiting is None:
            self._count(mean, var)
        else:
            self._waiting.append((mean, var))

    @torch.no_grad()
    def _count(self, mean: Tensor, var: Tensor) -> None:
        std = var.sqrt()
        # A channel that overflowed (a skipped step under AMP) must not spoil its statistics.
        good = mean.isfinite() & std.isfinite()
        first = (self.running_mean == 0) & (self.running_std == 0)
        for running, value in ((self.running_mean, mean), (self.running_std, std)):
            value = value.to(running.dtype)
            blended = running * self.stat_momentum + value * (1 - self.stat_momentum)
            running.copy_(torch.where(good, torch.where(first, value, blended), running))
        self.num_batches_tracked += good.any()

    # The function ---------------------------------------------------------------------------------

    def _parameters_in_order(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return (
            self.left_bound,
            self.right_bound,
            self.left_slope,
            self.right_slope,
            self.rows('points'),
        )

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        dim = self._dim(x)
        parameters = self._parameters_in_order()
        inference = not self.training
        if self._phase != 'learn':
            inference = True
            if self.sees_input:
                self._collect(x.detach(), norm)
                self._warn_if_unattended()
            # Zero gradients rather than none: parameters without would make DDP wait for ever, and
            # requires_grad=False would need DDP and the optimizer to be built anew for phase II.
            idle = x.new_zeros((), dtype=torch.bool)
            lb, rb, ls, rs, points = [torch.where(idle, p, p.detach()) for p in parameters]
            parameters = (lb, rb, ls, rs, points)
        return pwlu(x, *parameters, channel_dim=dim, inference=inference, norm=norm)

    def _warn_if_unattended(self) -> None:
        if self._unattended and not is_compiling():
            warnings.warn(
                'PWLU: the state dict that was loaded is of phase I, in which nothing is learned '
                "but statistics. Train with custom_hooks=[dict(type='PWLURealignHook', ...)], or "
                'call realign() (start_collecting() to begin phase I anew)',
                stacklevel=3,
            )
            self._unattended = False

    @torch.no_grad()
    def fold_affine(self, scale: Tensor | float, shift: Tensor | float) -> PWLU:
        """Folds a preceding affine map, such as a BatchNorm in evaluation, into the function.

        Args:
            scale: Factor of each channel, (C,) or a number; may be negative or 0.
            shift: Addend of each channel, (C,) or a number.

        Returns:
            A new PWLU in phase 'learn', equal to ``self(scale * x + shift)``. With fewer functions
            than C and (C,) arguments it has a function for each channel.

        Raises:
            ValueError: If scale or shift is not finite or of another shape.
            RuntimeError: If the number of channels is not known.
        """
        like, groups = self.left_bound, self.num_functions
        given = {
            name: torch.as_tensor(value, dtype=torch.float64, device=like.device)
            for name, value in (('scale', scale), ('shift', shift))
        }
        channels = self.num_channels or max(groups, *(v.numel() for v in given.values()))
        for name, value in given.items():
            if value.dim() > 1 or value.numel() not in (1, channels) or channels % groups:
                raise ValueError(
                    f'PWLU.fold_affine: {name} must be a number or have shape ({channels},), '
                    f'got {tuple(value.shape)}'
                )
            if not value.isfinite().all():
                raise ValueError(f'PWLU.fold_affine: {name} must be finite')
        functions = groups if all(v.numel() == 1 for v in given.values()) else channels
        scale, shift = (value.reshape(-1).expand(functions) for value in given.values())
        lb, rb, ls, rs, points = (
            p.double().repeat_interleave(functions // groups, 0)
            for p in self._parameters_in_order()
        )
        rb = lb + (rb - lb).clamp(min=PWLU_MIN_WIDTH)

        # Where the scale is 0 the function is constant, and any bounds will do; so too where it is
        # so small that bounds would leave the range of the parameters' dtype.
        level = pwlu(shift, lb, rb, ls, rs, points, channel_dim=0)
        ends = torch.stack([lb - shift, rb - shift])
        constant = (ends.abs() > scale.abs() * torch.finfo(like.dtype).max / 4).any(0) | (
            scale == 0
        )
        scale = scale.masked_fill(constant, 0)
        ends = ends / scale.masked_fill(constant, 1)
        mirrored = scale < 0
        folded = PWLU(
            self.num_channels if functions == groups else channels,
            num_intervals=self.num_intervals,
            bounds=self.bounds,
            init=self.init,
            stat_momentum=self.stat_momentum,
            num_groups=self.num_groups if functions == groups else None,
            channel_dim=self.channel_dim,
        )
        values = (
            torch.where(mirrored, ends[1], ends[0]),
            torch.where(mirrored, ends[0], ends[1]),
            torch.where(mirrored, rs, ls) * scale,
            torch.where(mirrored, ls, rs) * scale,
            torch.where(mirrored.unsqueeze(1), points.flip(1), points),
        )
        folded.to(device=like.device, dtype=like.dtype)
        for parameter, value in zip(folded._parameters_in_order(), values, strict=True):
            parameter.copy_(value)
        folded.rows('points')[constant] = level[constant].to(like.dtype).unsqueeze(1)
        return folded.train(self.training)

    # State ----------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f'{prefix}phase_id' in state_dict:
            self._phase = _PHASES[int(state_dict[f'{prefix}phase_id'])]
            self._unattended = self._phase == 'collect'

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return (
            f'num_channels={self.num_channels}, num_intervals={self.num_intervals}, '
            f'init={self.init!r}, num_groups={self.num_groups}, channel_dim={self.channel_dim}, '
            f'phase={self.phase!r}'
        )


def _derivative(function: Function, x: Tensor) -> Tensor:
    # Also where a model is built in inference mode, in which everything would look constant.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        y = function(x)
        return torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)
