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
    AconC,
    ChannelActivation,
    DiTAC,
    DyReLUA,
    DyReLUB,
    DyReLUC,
    FReLU,
    GroupRational,
    Maxout,
    MetaAconC,
    Mixture,
    SReLU,
)
from ..activations.catalogue import layers
from ..activations.functions import Function
from ..activations.standard import STANDARD
from ..ops.reference import ARELU_CLAMP
from .kinds import Original

#: Bounds (-B, B) of a PWLU that are tried for a curved function.
_BOUNDS = (3.0, 4.0, 5.0, 6.0, 8.0)

#: Where a function's slopes are measured that it tends to.
_FAR = 1000.0

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
        # Whether the number of channels has to be known, and where they are.
        probe = self.cls(**self.given)
        self.per_channel = isinstance(probe, ChannelActivation) and (
            not probe.resolved or probe.num_functions > 1
        )

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
            found.append(module)
        place = channels, channel_dim, ndim
        if len(found) > 1:
            # Weights that are loaded later, and training, bring other inputs than the dry run's.
            errors = [self._error(m, *place, reach=_BOUNDS[-1]) for m in found]
            best = min(range(len(found)), key=lambda i: math.inf if (e := errors[i]) is None else e)
            found = [found[best]]
        return found[0], self._error(found[0], *place)

    def _options(self) -> list[dict[str, Any]]:
        """Arguments with which the activation starts as the original, or close to it."""
        original, slope = self.original, self.original.slope
        if issubclass(self.cls, PWLU):
            if original.name == 'relu':
                return [{}]
            if slope is None:
                return [dict(init=original.init, bounds=(-b, b)) for b in _BOUNDS]
            return [dict(init=original.init)]
        if issubclass(self.cls, (PAU, GroupRational)):
            return [dict(init=original.init)]
        if issubclass(self.cls, AconC):
            # SiLU at p1 = 1, p2 = 0 and beta = 1, close to GELU and ReLU with larger betas.
            beta = 10.0 if slope is not None else 1.702 if 'GELU' in original.kind else 1.0
            switch = {} if issubclass(self.cls, MetaAconC) else dict(beta=beta)
            return [dict(p1=1.0, p2=slope or 0.0, **switch)]
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
        if isinstance(module, PWLU) and slope is None and 'init' not in self.given:
            self._fit(module)
        if slope is None:
            return
        if isinstance(module, APL):
            # The hinges stay where they were drawn: they begin to act as their slopes learn.
            module.slopes.zero_()
            if slope:
                module.rows('slopes')[:, 0] = -slope
                module.rows('hinges')[:, 0] = 0
        elif isinstance(module, (PAU, GroupRational)) and 'init' not in self.given:
            # Fitted on (-3, 3); the leaky family is the same on any scale.
            scale = max(1.0, -self.low / 3, self.high / 3)
            with_b0 = getattr(module, 'version', 'A') == 'C'
            powers = torch.arange(module.m + 1), torch.arange(0 if with_b0 else 1, module.n + 1)
            for name, factor, power in zip(
                ('numerator', 'denominator'), (scale, 1), powers, strict=True
            ):
                values = module.get_parameter(name)
                values.view(-1, len(power)).mul_(factor * scale**-power)
        elif isinstance(module, Mixture) and module.hull == 'affine':
            module.weight.fill_(slope)
        elif isinstance(module, FReLU) and slope == 0:
            module.bn.weight.zero_()

    def _fit(self, module: PWLU) -> None:
        """Makes a table the one of least squares, with the slopes that the function tends to.

        A table that is sampled lies on one side of a curve, and its errors add up over the layers.
        """
        function = self.original.function
        if isinstance(function, ChannelActivation):
            return
        if isinstance(function, nn.Module):
            function = copy.deepcopy(function).double().cpu()
        (left, right), n = module.bounds, module.num_intervals
        left_slope, right_slope = self._outer_slopes(function, left, right)
        reach = (right - left) / 4
        x = torch.linspace(left - reach, right + reach, 48 * n + 1, dtype=torch.float64)
        place = ((x - left) * (n / (right - left))).clamp(0, n)
        hats = (1 - (place.unsqueeze(1) - torch.arange(n + 1)).abs()).clamp(min=0)
        outside = left_slope * (x - left).clamp(max=0) + right_slope * (x - right).clamp(min=0)
        target = (function(x) - outside).unsqueeze(1)
        points = torch.linspace(left, right, n + 1, dtype=torch.float64)
        points = function(points).unsqueeze(1)
        if (hats @ points - target).abs().max() > 1e-6:  # else it is exact as it is
            points = torch.linalg.lstsq(hats, target).solution
        module.left_slope.fill_(left_slope)
        module.right_slope.fill_(right_slope)
        module.rows('points').copy_(points.squeeze(1))

    def _outer_slopes(self, function: Function, left: float, right: float) -> tuple[float, float]:
        """The slopes that a function tends to; of one that has none, those to the last input."""

        def slope(a: float, b: float) -> float:
            at_a, at_b = function(torch.tensor([a, b], dtype=torch.float64)).tolist()
            return (at_b - at_a) / (b - a) + 0.0  # not -0.0

        def outer(bound: float, last: float, far: float) -> float:
            tends_to = slope(far / 2, far)
            if abs(tends_to - slope(far / 4, far / 2)) < 1e-3:
                return tends_to
            return slope(bound, last)

        beyond = min(self.low, left - 1), max(self.high, right + 1)
        return outer(left, beyond[0], -_FAR), outer(right, beyond[1], _FAR)

    @torch.no_grad()
    def _error(
        self,
        module: nn.Module,
        channels: int | None,
        channel_dim: int | None,
        ndim: int,
        reach: float = 0.0,
    ) -> float | None:
        # All of the range, and the part of it where functions bend.
        left, right = min(self.low, -reach), max(self.high, reach)
        near = [min(max(end, left), right) for end in (-_BOUNDS[-1], _BOUNDS[-1])]
        wide, narrow = (
            torch.linspace(low, high, _SAMPLES + 1, dtype=torch.float64)
            for low, high in ((left, right), near)
        )
        x = torch.cat([wide, narrow, wide.new_zeros(1).clamp(left, right)])
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
