# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Activations as functions of one number.

An elementwise activation is one function for each channel, group or layer. The others see more than
the element: Dynamic ReLU and Meta-ACON all of the sample, FReLU the neighbours, Maxout the other
channels. Given what they see, its *conditions*, they are functions of one number too, and over a
data set they are a family of them.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmact.activations import DiTAC, FReLU, Maxout, MetaAconC
from mmact.activations.dyrelu import _DyReLU
from mmact.ops.dyrelu_squeeze import dyrelu_squeeze

from .alignment import BOUNDS, has_bounds
from .layers import channel_count, evaluate

# Pixels of each sample at which conditions that differ from pixel to pixel are looked at.
_PIXELS = 8


class Family:
    """The functions of an elementwise activation; the base of the others.

    Args:
        module: An activation.

    Attributes:
        count: Number of functions n.
        names: Names of the P conditions that distinguish the members of the family.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names: list[str] = []

    @property
    def count(self) -> int:
        """Number of functions: channels, groups of channels, or 1."""
        return channel_count(self.module)

    def conditions(self, args: tuple, generator: torch.Generator) -> Tensor:
        """Returns the conditions in a call of the layer, (S, n, P), float32; S differs by kind.

        Args:
            args: Positional arguments of the layer's forward.
            generator: Chooses pixels, where there is a choice.
        """
        return torch.empty(1, self.count, 0)

    def at_rest(self) -> Tensor:
        """Returns conditions without data, (1, n, P): those of a sample that is 0 on average."""
        return torch.empty(1, self.count, 0)

    def evaluate(self, x: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Evaluates the members of the family.

        Args:
            x: Points of each function, (n, G).
            conditions: (S, n, P); None for those at rest.

        Returns:
            Values, (S, n, G), float64.
        """
        conditions = self.at_rest() if conditions is None else conditions
        return self._values(x.detach().to('cpu', torch.float64), conditions.double())

    def _values(self, x: Tensor, conditions: Tensor) -> Tensor:
        return evaluate(self.module, x).unsqueeze(0).expand(conditions.size(0), -1, -1)

    def bounds(self) -> Tensor | None:
        """Returns where each function is learned in detail, (n, 2); None where it is not said."""
        if has_bounds(self.module):
            sides = [getattr(self.module, name).detach() for name in BOUNDS]
            return torch.stack(sides, 1).cpu().double()
        if isinstance(self.module, DiTAC):
            return torch.tensor(self.module.domain).double().expand(self.count, 2)
        return None


class _DynamicReLU(Family):
    """The maximum of K lines: slopes and intercepts are made of the sample."""

    module: _DyReLU

    def __init__(self, module: _DyReLU) -> None:
        super().__init__(module)
        lines = range(1, module.K + 1)
        self.names = [f'slope {k}' for k in lines] + [f'intercept {k}' for k in lines]
        if module._projection() is not None:
            self.names.append('attention')

    @property
    def count(self) -> int:
        return (self.module.num_channels or 0) if self.module._per_channel else 1

    def conditions(self, args: tuple, generator: torch.Generator) -> Tensor:
        module, x = self.module, args[0].detach()
        seen = x if len(args) < 2 or args[1] is None else args[1].detach()
        dim = _dim(module, seen)
        pixels = [d for d in range(1, seen.dim()) if d != dim]
        mean = seen.float().mean(pixels) if pixels else seen.float()
        found = module.coefficients(mean).transpose(1, 2)
        logits = dyrelu_squeeze(x, module._projection(), _dim(module, x))[2]
        if logits is not None:
            attention = module.attend(logits).flatten(1)
            chosen = torch.randint(attention.size(1), (attention.size(0),), generator=generator)
            attention = attention.cpu()[torch.arange(len(chosen)), chosen]
            attention = attention.view(-1, 1, 1).expand(-1, found.size(1), 1).to(found)
            found = torch.cat([found, attention], 2)
        return found.float().cpu()

    def at_rest(self) -> Tensor:
        module = self.module
        zeros = torch.zeros(1, module.seen_channels).to(module.fc1_weight)
        found = module.coefficients(zeros).transpose(1, 2)
        if module._projection() is not None:
            attention = module.attend(zeros.new_zeros(1, 1)).view(1, 1, 1)
            found = torch.cat([found, attention.expand(-1, found.size(1), 1)], 2)
        return found.float().cpu()

    def _values(self, x: Tensor, conditions: Tensor) -> Tensor:
        k = self.module.K
        lines = [conditions[..., i, None] * x + conditions[..., k + i, None] for i in range(k)]
        y = functools.reduce(torch.maximum, lines)
        return y * conditions[..., -1, None] if len(self.names) > 2 * k else y


class _MetaAcon(Family):
    """ACON whose beta is made of the sample."""

    module: MetaAconC

    def __init__(self, module: MetaAconC) -> None:
        super().__init__(module)
        self.names = ['beta']

    def conditions(self, args: tuple, generator: torch.Generator) -> Tensor:
        x = args[0].detach().float()
        beta = self.module.switch(x, _dim(self.module, x))
        return beta.reshape(x.size(0), -1, 1).float().cpu()

    def at_rest(self) -> Tensor:
        like = self.module.p1
        zeros = like.new_zeros(1, like.numel())
        return self.module.switch(zeros, 1).view(1, -1, 1).float().cpu()

    def _values(self, x: Tensor, conditions: Tensor) -> Tensor:
        p1, p2 = (p.detach().cpu().double().unsqueeze(1) for p in (self.module.p1, self.module.p2))
        return x * (p2 + (p1 - p2) * torch.sigmoid(conditions * (p1 - p2) * x))


class _MaximumWith(Family):
    """max(x, t): t is FReLU's funnel, or the largest of the other channels of Maxout's group."""

    @property
    def count(self) -> int:
        return int(getattr(self.module, 'num_channels', 0) or 0)

    def _at_pixels(self, t: Tensor, dim: int, generator: torch.Generator) -> Tensor:
        """(S, n, 1) of t, whose n channels are at dim, at some of the pixels of each sample."""
        flat = t.movedim(dim, 0).flatten(1)
        size = min(_PIXELS * t.size(0), flat.size(1))
        index = torch.randint(flat.size(1), (size,), generator=generator).to(t.device)
        return flat[:, index].T.unsqueeze(-1).float().cpu()

    def _values(self, x: Tensor, conditions: Tensor) -> Tensor:
        return torch.maximum(x, conditions)


class _Funnel(_MaximumWith):
    module: FReLU

    def __init__(self, module: FReLU) -> None:
        super().__init__(module)
        self.names = ['T(x)']

    def conditions(self, args: tuple, generator: torch.Generator) -> Tensor:
        x, bn = args[0].detach(), self.module.bn
        # Not bn itself: in training it would count the batch a second time.
        stats = (None, None) if bn.training else (bn.running_mean, bn.running_var)
        t = F.batch_norm(self.module.conv(x), *stats, bn.weight, bn.bias, bn.training, eps=bn.eps)
        return self._at_pixels(t, 1, generator)

    def at_rest(self) -> Tensor:
        # The average of what the BatchNorm puts out.
        return self.module.bn.bias.detach().view(1, -1, 1).float().cpu()


class _LargestOf(_MaximumWith):
    module: Maxout

    def __init__(self, module: Maxout) -> None:
        super().__init__(module)
        self.names = ['largest of the others']

    def conditions(self, args: tuple, generator: torch.Generator) -> Tensor:
        x, k = args[0].detach(), self.module.k
        dim = _dim(self.module, x)
        groups = x.movedim(dim, 0).unflatten(0, (-1, k))
        top = groups.topk(2, 1).values
        others = torch.where(groups == top[:, :1], top[:, 1:], top[:, :1])
        return self._at_pixels(others.flatten(0, 1), 0, generator)

    def at_rest(self) -> Tensor:
        return torch.zeros(1, self.count, 1)


def family(module: nn.Module) -> Family:
    """Returns the family of functions of an activation of mmact, PyTorch or mmcv."""
    kinds: dict[type, type[Family]] = {
        _DyReLU: _DynamicReLU,
        MetaAconC: _MetaAcon,
        FReLU: _Funnel,
        Maxout: _LargestOf,
    }
    for cls, kind in kinds.items():
        if isinstance(module, cls):
            return kind(module)
    return Family(module)


def _dim(module: nn.Module, x: Tensor) -> int:
    dim = getattr(module, 'channel_dim', None)
    return (1 if dim is None else dim) % x.dim()
