# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Perceptrons of several seeds that are trained as one: tensors are (seeds, width, batch).

A small network spends most of its time on calls, which five of them in one tensor share. Nothing
passes from one seed to another: weights belong to a seed, activations have a function for each,
losses are added up, and Adam works by element. The batch comes last because sums over it, for the
gradients of biases, are fastest there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmact.activations import PAU, PDELU, PWLU, AReLU, DiTAC
from mmact.ops import piecewise_linear
from mmact.ops.reference import ARELU_CLAMP


class SeedPReLU(nn.PReLU):
    """PReLU with a slope for each seed; x is (S, width, B)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class SeedSwish(nn.Module):
    """``x * sigmoid(beta * x)`` with a learned beta for each seed that starts at 1.

    Ramachandran, Zoph, Le, Searching for Activation Functions, 2017. The paper's Table 8 counts one
    parameter for it.

    Args:
        num_seeds: S; x is (S, width, B).
    """

    def __init__(self, num_seeds: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(num_seeds, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        return x * torch.sigmoid(self.beta * x)


class SeedAReLU(nn.Module):
    """AReLU with an alpha and a beta for each seed: the layer's op takes one of each.

    Args:
        num_seeds: S; x is (S, width, B).
    """

    def __init__(self, num_seeds: int) -> None:
        super().__init__()
        like = AReLU()
        self.alpha = nn.Parameter(like.alpha.detach().repeat(num_seeds))
        self.beta = nn.Parameter(like.beta.detach().repeat(num_seeds))
        self.register_buffer('zeros', torch.zeros(num_seeds, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        slopes = torch.stack([self.alpha.clamp(*ARELU_CLAMP), 1 + self.beta.sigmoid()], 1)
        return piecewise_linear(x, self.zeros[:, :1], slopes, self.zeros, channel_dim=0)


def _fixed(cls: type[nn.Module]) -> Callable[[int], nn.Module]:
    return lambda num_seeds: cls()


def _by_seed(cls: type[nn.Module], **kwargs) -> Callable[[int], nn.Module]:
    """One function of a layer for each seed: the seeds are the channels."""
    return lambda num_seeds: cls(num_channels=num_seeds, channel_dim=0, **kwargs)


# [-3, 3] is the domain of the authors' regression program; Eq. 5 and 6 are continuous from 0 on.
_ditac = partial(_by_seed, DiTAC, num_groups=None)
#: Name to a function that makes the activation of a layer for a number of seeds.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    'ReLU': _fixed(nn.ReLU),
    'LeakyReLU': _fixed(nn.LeakyReLU),
    'GELU': _fixed(nn.GELU),
    'ELU': _fixed(nn.ELU),
    'Softplus': _fixed(nn.Softplus),
    'Mish': _fixed(nn.Mish),
    'Swish': SeedSwish,
    'PReLU': SeedPReLU,
    'PDELU': _by_seed(PDELU),
    'DiTAC': _ditac(domain=(-3, 3)),
    'DiTAC-prior': _ditac(domain=(-3, 3), init='prior'),
    'DiTAC-authors': _ditac(domain=(-3, 3), init='prior', prior='authors'),
    'DiTAC-authors-start': _ditac(domain=(-3, 3), init='prior', prior='authors'),
    'GE-DiTAC': _ditac(version='ge', domain=(0, 3)),
    'L-DiTAC': _ditac(version='leaky', domain=(0, 3)),
    'inf-DiTAC': _ditac(version='inf', domain=(-3, 3)),
    'PWLU': _by_seed(PWLU),
    'PAU': _by_seed(PAU, num_groups=None),
    'AReLU': SeedAReLU,
}
#: What the authors' program multiplies its regulariser with; here that of DiTAC-authors.
AUTHORS_WEIGHT = 0.1
#: Trained only where they are asked for.
ON_REQUEST = ('DiTAC-authors', 'DiTAC-authors-start')
#: Versions of DiTAC other than Eq. 4, which Table 9 compares on one task.
VERSIONS = ('GE-DiTAC', 'L-DiTAC', 'inf-DiTAC')


class StackedMLP(nn.Module):
    """Multilayer perceptrons of the same shape, one for each seed.

    Each starts as ``nn.Linear`` layers made after ``torch.manual_seed(seed)`` do, and is the same
    whatever other seeds there are.

    Args:
        widths: Units from input to output; an activation after each layer but the last.
        activation: One of :data:`ACTIVATIONS`.
        seeds: S of them.

    Shape:
        Input (S, B, widths[0]); output (S, B, widths[-1]).
    """

    def __init__(self, widths: Sequence[int], activation: str, seeds: Sequence[int]) -> None:
        super().__init__()
        self.regularized = activation == 'DiTAC-authors'
        make, hidden = ACTIVATIONS[activation], len(widths) - 2
        self.activations = nn.ModuleList(make(len(seeds)) for _ in range(hidden))
        linear = []
        for place, seed in enumerate(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                pairs = zip(widths, widths[1:], strict=False)
                linear.append([nn.Linear(i, o) for i, o in pairs])
                for act in self.activations:
                    if getattr(act, 'init', None) == 'prior':
                        act.rows('theta').data[place] = make(1).theta.data
        layers = list(zip(*linear, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([layer.weight.detach() for layer in same]) for same in layers
        )
        self.biases = nn.ParameterList(
            torch.stack([layer.bias.detach().unsqueeze(1) for layer in same]) for same in layers
        )

    def forward(self, x: Tensor) -> Tensor:
        """Applies every seed's network to its part of x."""
        weights, biases = list(self.weights), list(self.biases)
        x = torch.baddbmm(biases[0], weights[0], x.mT)
        for act, weight, bias in zip(self.activations, weights[1:], biases[1:], strict=True):
            x = torch.baddbmm(bias, weight, act(x))
        return x.mT

    def regularizer(self) -> Tensor | float:
        """Returns 0.1 times the smoothness of each DiTAC-authors, summed over seeds."""
        if not self.regularized:
            return 0.0
        return AUTHORS_WEIGHT * sum(act.smoothness() for act in self.activations)

    def num_parameters(self) -> int:
        """Learnable parameters of one seed's network."""
        return sum(p.numel() for p in self.parameters()) // self.weights[0].size(0)
