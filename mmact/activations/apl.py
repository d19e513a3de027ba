# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""APL: adaptive piecewise-linear units.

Paper: Agostinelli, Hoffman, Sadowski, Baldi, Learning Activation Functions to Improve Deep Neural
Networks, ICLR workshop 2015, Eq. 1.

Where the paper leaves a choice:

- It learns a function for each neuron. In a convolutional network that is a channel here, as for
  all activations of OpenMMLab; num_groups=1 is what the AReLU paper compares with (S = 1 there).
- Eq. 1 comes without initial values. They are drawn as in the authors' Caffe layer: slopes from
  U(-0.2, 0.2), hinges from N(0, 0.5^2). Equal hinges would get equal gradients and stay equal.
- The paper adds an L2 penalty to the parameters; ``ActivationParamConstructor`` decays activation
  parameters with ``paramwise_cfg=dict(activation_decay_mult=...)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import piecewise_linear
from ..ops._arguments import positive
from ..ops.norm import Norm
from ..ops.reference import opmath_dtype
from .base import ChannelActivation


class APL(ChannelActivation):
    """Adaptive piecewise-linear unit: ReLU plus S learned hinges, ``a_s * max(0, b_s - x)``.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        S: Number of hinges.
        num_groups: Number of functions G. None: one for each channel; 1: one
            for the layer, which needs no number of channels; a divisor of C: groups of neighbouring
            channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape with C channels at ``channel_dim``; dtype and memory
        format are kept.

    Attributes:
        slopes: a of Eq. 1, flat; ``rows('slopes')`` is (G, S).
        hinges: b of Eq. 1, likewise.

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.

    Example:
        >>> act = APL(num_channels=64)
        >>> act(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    paper = (
        'Agostinelli, Hoffman, Sadowski, Baldi, Learning Activation Functions to Improve Deep '
        'Neural Networks, ICLR workshop'
    )
    year = 2015
    parameter_count = (6, 'channel')
    elementwise_op = 'piecewise_linear'

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        S: int = 3,
        num_groups: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        (self.S,) = positive(type(self).__name__, S=S)
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates the parameters and draws their initial values."""
        shape = (num_functions * self.S,)
        self.slopes = nn.Parameter(torch.empty(shape).uniform_(-0.2, 0.2))
        self.hinges = nn.Parameter(torch.empty(shape).normal_(0.0, 0.5))

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """(breakpoints, slopes, offsets) of the function's S + 2 pieces, for each channel."""
        dtype = opmath_dtype(self.slopes.dtype)
        a, b = [self.rows(name).to(dtype) for name in ('slopes', 'hinges')]
        corners = torch.cat([b.new_zeros(len(b), 1), b.detach()], 1)
        breakpoints, order = corners.sort(1)
        rank = order.argsort(1)
        # Piece k lies to the right of the k smallest corners: there ReLU acts if its own corner is
        # one of them, and the hinges whose corners are not.
        piece = torch.arange(self.S + 2, device=a.device)
        relu = (rank[:, :1] < piece).to(a.dtype)
        acts = (rank[:, None, 1:] >= piece[:, None]).to(a.dtype)
        slopes = relu - (acts * a[:, None]).sum(2)
        offsets = (acts * (a * b)[:, None]).sum(2)
        return breakpoints, slopes, offsets

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        dim = self._dim(x)
        return piecewise_linear(x, *self._table(), channel_dim=dim, norm=norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'S={self.S}, {super().extra_repr()}'
