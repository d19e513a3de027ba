# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PDELU: the parametric deformable exponential linear unit.

Paper: Cheng, Li, Wu, Ma, Ngan, Parametric Deformable Exponential Linear Units for Deep Neural
Networks, Neural Networks 2020.

The deformed exponential is exp_t(x) = [1 + (1 - t) x]_+^(1 / (1 - t)), which is exp(x) in the limit
t = 1, where PDELU is ELU with a learned alpha. For t < 1 it reaches 0, and PDELU its lowest value
-alpha, at x = -1 / (1 - t).

Where the paper leaves a choice, that of the authors' Caffe layer is taken: a learned alpha for each
channel, or for the layer, that starts at 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._arguments import number
from ..ops._compat import expm1_to_0
from ..ops.reference import opmath_dtype
from .base import ChannelActivation


class PDELU(ChannelActivation):
    """Parametric deformable ELU: ``alpha * (exp_t(x) - 1)`` below 0, else x; alpha is learned.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        t: Deformation of the exponential, >= 0; fixed. 1 is the exponential itself.
        alpha: Initial alpha.
        num_groups: Number of functions G. None: one for each channel; 1: one
            for the layer, which needs no number of channels; a divisor of C: groups of neighbouring
            channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape with C channels at ``channel_dim``; dtype and memory
        format are kept. NaN gives NaN.

    Attributes:
        alpha: (G,).

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.
    """

    paper = (
        'Cheng, Li, Wu, Ma, Ngan, Parametric Deformable Exponential Linear Units for Deep Neural '
        'Networks, Neural Networks'
    )
    year = 2020
    parameter_count = (1, 'channel')

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        t: float = 0.9,
        alpha: float = 1.0,
        num_groups: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        # Below 0 the power of the bracket has an infinite derivative where the bracket is 0.
        self.t = number(type(self).__name__, 't', t, 0)
        self.initial_alpha = number(type(self).__name__, 'alpha', alpha)
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates alpha."""
        self.alpha = nn.Parameter(torch.full((num_functions,), self.initial_alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        dim = self._dim(x)
        dtype = opmath_dtype(x.dtype)
        alpha = self.alpha.to(dtype)
        if alpha.numel() == 1:
            alpha = alpha.reshape(())
        else:
            alpha = alpha.repeat_interleave(x.size(dim) // alpha.numel())
            alpha = alpha.reshape([-1 if d == dim else 1 for d in range(x.dim())])
        value = x.to(dtype)
        # Both branches are finite with finite derivatives everywhere, also where they are not used:
        # 0 * inf in the backward of torch.where would be NaN.
        negative = value.clamp(max=0)
        if self.t == 1:
            deformed = expm1_to_0(negative)
        else:
            # exp_t(x) - 1 without cancellation near 0. The bracket stops one rounding above 0,
            # where log1p and its derivative are finite.
            excess = ((1 - self.t) * negative).clamp(min=torch.finfo(dtype).eps - 1)
            deformed = expm1_to_0(torch.log1p(excess) / (1 - self.t))
        return torch.where(value > 0, value, alpha * deformed).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f't={self.t}, {super().extra_repr()}'
