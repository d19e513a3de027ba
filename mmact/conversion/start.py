# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""New activations that start as the function that they replace."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..activations import (
    APL,
    ELSA,
    PAU,
    PDELU,
    PWLU,
    ChannelActivation,
    DiTAC,
    DyReLUA,
    DyReLUB,
    DyReLUC,
    FReLU,
    Maxout,
    Mixture,
    SReLU,
)
from ..activations.catalogue import layers
from ..activations.standard import STANDARD
from ..ops.reference import ARELU_CLAMP
from .kinds import Original

#: Bounds (-B, B) of a PWLU that are tried for a curved function.
_BOUNDS = (3.0, 4.0, 6.0, 8.0)

#: Where the error is measured if no dry run has seen an input.
_RANGE = (-3.0, 3.0)
_SAMPLES = 256


def activation_class(act_cfg: Mapping[str, Any]) -> type[nn.Module]:
    """The class that a config names: mmact's, PyTorch's, or another that MMEngine knows.

    Raises:
        TypeError: If act_cfg is not a dict with a ``type``, or that is not of modules.
        KeyError: If no registry knows it.
        ValueError: If it changes the number of channels, as Maxout does.
    """
    if not isinstance(act_cfg, Mapping) or 'type' not in act_cfg:
        raise TypeError(
            f"convert: act_cfg must be a dict with a type, such as dict(type='PWLU'); got "
            f'{act_cfg!r}'
        )
    kind = act_cfg['type']
    if isinstance(kind, str):
        standard = STANDARD[kind].cls if kind in STANDARD else None
        kind = layers().get(kind.removeprefix('mmact.')) or standard or _registered(kind)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise TypeError(f'convert: act_cfg names {kind!r}, which is not a module')
    if issubclass(kind, Maxout):
        raise ValueError(
            'convert: Maxout changes the number of channels, so that the layers around it must be '
            'built for it; it cannot take the place of another activation'
        )
    return kind


def _registered(name: str) -> type[nn.Module]:
    try:
        from mmengine.registry import MODELS
    except ImportError:
        found = None
    else:
        with MODELS.switch_scope_and_registry(None) as registry:
            found = registry.get(name)
    if found is None:
        known = ', '.join([*layers(), *sorted(STANDARD)])
        raise KeyError(f'convert: there is no activation {name!r}; known are {known}')
    return found


class Starter:
    """Builds activations from a config.

    Args:
        act_cfg: ``dict(type=..., ...)``. Arguments that it gives are kept as they are.
        original: The function to start as.
        low: Smallest input.
        high: Largest input.
    """

    def __init__(
        self,
        act_cfg: Mapping[str, Any],
        original: Original,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        self.cls = activation_class(act_cfg)
        self.given = {k: v for k, v in act_cfg.items() if k != 'type'}
        self.original = original
        self.low, self.high = _RANGE if low is None or high is None else (low, high)
        # Whether the number of channels has to be known.
        probe = self.cls(**self.given)
        self.per_channel = isinstance(probe, ChannelActivation) and not probe.resolved

    def build(
        self, channels: int | None, channel_dim: int | None, ndim: int = 4
    ) -> tuple[nn.Module, float | None]:
        """Builds an activation, and measures how far it is from the original.

        Args:
            channels: Number of channels; None leaves it to the surroundings.
            channel_dim: Their dimension; None leaves it to the surroundings.
            ndim: Number of dimensions of the input.

        Returns:
            The activation and the largest absolute error; None where it is not a function of one
            number, or not known yet.

        Raises:
            ValueError: If the activation does not take such an input.
        """
        where: dict[str, Any] = {}
        if self.per_channel and channels is not None:
            where['num_channels'] = channels
            # FReLU has no choice.
            if not issubclass(self.cls, FReLU):
                where['channel_dim'] = channel_dim
        found = []
        for options in self._options():
            module = self.cls(**{**options, **where, **self.given})
            if isinstance(module, ChannelActivation) and not module.resolved:
                return module, None
            self._adjust(module)
            found.append((module, self._error(module, channels, channel_dim, ndim)))
        return min(found, key=lambda pair: math.inf if pair[1] is None else pair[1])

    def _options(self) -> list[dict[str, Any]]:
        """Arguments with which the activation starts as the original, or close to it."""
        original, slope = self.original, self.original.slope
        if issubclass(self.cls, PWLU):
            if original.name == 'relu':
                return [{}]
            if slope is None:
                return [dict(init=original.init, bounds=(-b, b)) for b in _BOUNDS]
            return [dict(init=original.init)]
        if issubclass(self.cls, PAU):
            return [dict(init=original.init)]
        if original.kind == 'ReLU6' and issubclass(self.cls, SReLU):
            return [dict(init=(0.0, 0.0, 6.0, 0.0))]
        if slope is None:
            return [{}]
        # The leaky family.
        if issubclass(self.cls, SReLU):
            return [dict(init=(0.0, slope, 1.0, 1.0))]
        if issubclass(self.cls, (DyReLUA, DyReLUB, DyReLUC)):
            gamma = self.given.get('gamma', 1 / 3) if issubclass(self.cls, DyReLUC) else 1.0
            slopes = [1.0] + [slope] * (self.given.get('K', 2) - 1)
            options: dict[str, Any] = dict(alphas=[s / gamma for s in slopes])
            if gamma != 1:
                options.update(lambda_a=1 / gamma, lambda_b=0.5 / gamma)
            return [options]
        if issubclass(self.cls, DiTAC):
            version = self.given.get('version', 'leaky')
            return [dict(version=version, negative_slope=slope)]
        if issubclass(self.cls, ELSA):
            # Slopes of exactly 0 and 1 are out of reach: the clamp's end is the nearest to the one,
            # and as far from the other the sigmoid still has a gradient.
            low, high = ARELU_CLAMP
            near = math.log(low / (1 - low))
            residual = self.cls._residual
            return [dict(alpha=min(max(slope, low), high), beta=near if residual else -near)]
        if issubclass(self.cls, PDELU) and slope == 0:
            return [dict(alpha=0.0)]
        if issubclass(self.cls, nn.PReLU):
            return [dict(init=slope)]
        if issubclass(self.cls, nn.LeakyReLU):
            return [dict(negative_slope=slope)]
        return [{}]

    @torch.no_grad()
    def _adjust(self, module: nn.Module) -> None:
        """Sets what no argument sets."""
        slope = self.original.slope
        if isinstance(module, PWLU) and slope is None:
            self._reach_out(module)
        if slope is None:
            return
        if isinstance(module, APL):
            # The hinges stay where they were drawn: they begin to act as their slopes learn.
            module.slopes.zero_()
            if slope:
                module.rows('slopes')[:, 0] = -slope
                module.rows('hinges')[:, 0] = 0
        elif isinstance(module, Mixture) and module.hull == 'affine':
            module.weight.fill_(slope)
        elif isinstance(module, FReLU) and slope == 0:
            module.bn.weight.zero_()

    def _reach_out(self, module: PWLU) -> None:
        """Lets the outer pieces end where the function does on the farthest inputs."""
        left, right = module.bounds
        function = self.original.function
        ends = torch.tensor([left, self.low, right, self.high], dtype=torch.float64)
        if isinstance(function, ChannelActivation):
            return
        if isinstance(function, nn.Module):
            function = copy.deepcopy(function).double().cpu()
        at_left, at_low, at_right, at_high = function(ends).tolist()
        if self.low < left:
            module.left_slope.fill_((at_low - at_left) / (self.low - left))
        if self.high > right:
            module.right_slope.fill_((at_high - at_right) / (self.high - right))

    @torch.no_grad()
    def _error(
        self, module: nn.Module, channels: int | None, channel_dim: int | None, ndim: int
    ) -> float | None:
        # All of the range, and the part of it where functions bend.
        near = [min(max(end, self.low), self.high) for end in (-_BOUNDS[-1], _BOUNDS[-1])]
        wide, narrow = (
            torch.linspace(low, high, _SAMPLES + 1, dtype=torch.float64)
            for low, high in ((self.low, self.high), near)
        )
        x = torch.cat([wide, narrow, wide.new_zeros(1).clamp(self.low, self.high)])
        function = self.original.function
        if isinstance(function, ChannelActivation):  # one that was learned stands there
            channels = channels or function.num_channels or function.num_functions
            channel_dim = function.channel_dim if channel_dim is None else channel_dim
        dim = 1 if channel_dim is None else channel_dim % ndim
        shape = [1] * ndim
        shape[dim] = channels or 1
        if ndim == 1 or not dim:
            return None
        # The samples lie along a dimension that is not the channels', and not the batch's: a
        # function of all of a sample sees them together.
        along = next((d for d in range(ndim - 1, 0, -1) if d != dim), 0)
        view = [-1 if d == along else 1 for d in range(ndim)]
        shape[along] = len(x)
        rows = x.view(view).expand(shape)
        new = copy.deepcopy(module).double().eval()(rows.clone())
        if isinstance(function, nn.Module):
            function = copy.deepcopy(function).double().cpu()
        return (new - function(rows.clone())).abs().max().item()


class ByWidth(nn.ModuleDict):
    """Activations of a call that is made on inputs of several widths, such as in a loop.

    Args:
        channel_dim: Dimension of the input that holds the channels.
        activations: The activation for each number of channels.
    """

    def __init__(self, channel_dim: int, activations: Mapping[int, nn.Module]) -> None:
        super().__init__({str(width): act for width, act in activations.items()})
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        """Applies the activation of x's width.

        Raises:
            KeyError: If no input of this width was seen when the model was converted.
        """
        width = str(x.size(self.channel_dim))
        if width not in self:
            raise KeyError(
                f'this call site was converted for inputs of {", ".join(self)} channels, got '
                f'{width}: convert the model with an example that has them all'
            )
        return self[width](x)
