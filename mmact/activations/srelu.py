# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""SReLU: the S-shaped rectified linear unit.

Paper: Jin, Xu, Feng, Wei, Xiong, Yan, Deep Learning with S-shaped Rectified Linear Activation
Units, AAAI 2016.

Where the paper leaves a choice:

- It starts as a leaky ReLU that is held for some epochs, and then sets the right threshold from the
  data. Without that procedure the default starts close to the same function: leaky ReLU
  with slope 0.2 up to 1, one standard deviation of an input that a BatchNorm or a good
  initialisation has scaled. Beyond, the slope is 0.9 and not 1: with 1 the gradient of the
  right threshold, (1 - a_r) times a sum, would be exactly 0.
- Nothing keeps the thresholds from crossing. Where t_r < t_l it acts as if it stood at t_l: the
  function stays continuous, without the middle piece, and t_r keeps a gradient that can bring it
  back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import pwlu
from ..ops._arguments import refuse, several
from ..ops.norm import Norm
from ..ops.reference import PWLU_MIN_WIDTH, opmath_dtype
from .base import ChannelActivation


class SReLU(ChannelActivation):
    """S-shaped ReLU: the identity between two thresholds, with learned slopes beyond them.

    ``t_l + a_l * (x - t_l)`` for x below t_l, ``t_r + a_r * (x - t_r)`` from t_r on, x between.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        init: Initial (t_l, a_l, t_r, a_r).
        num_groups: Number of functions G. None: one for each channel (the paper's setting); 1: one
            for the layer, which needs no number of channels; a divisor of C: groups of neighbouring
            channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape with C channels at ``channel_dim``; dtype and memory
        format are kept.

    Attributes:
        left_threshold, right_threshold: t_l and t_r, (G,).
        left_slope, right_slope: a_l and a_r, (G,).

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.
    """

    paper = (
        'Jin, Xu, Feng, Wei, Xiong, Yan, Deep Learning with S-shaped Rectified Linear Activation '
        'Units, AAAI'
    )
    year = 2016
    parameter_count = (4, 'channel')
    elementwise_op = 'pwlu'
    left_threshold: nn.Parameter
    left_slope: nn.Parameter
    right_threshold: nn.Parameter
    right_slope: nn.Parameter

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        init: Sequence[float] = (0.0, 0.2, 1.0, 0.9),
        num_groups: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        owner = type(self).__name__
        wanted = 'four finite numbers (t_l, a_l, t_r, a_r) with t_l <= t_r'
        t_l, a_l, t_r, a_r = several(owner, 'init', init, 4, wanted)
        if t_l > t_r:
            refuse(owner, 'init', wanted, init)
        self.init = (t_l, a_l, t_r, a_r)
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates the parameters at their initial values."""
        names = ('left_threshold', 'left_slope', 'right_threshold', 'right_slope')
        for name, value in zip(names, self.init, strict=True):
            setattr(self, name, nn.Parameter(torch.full((num_functions,), value)))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        dim = self._dim(x)
        parameters = (self.left_threshold, self.right_threshold, self.left_slope, self.right_slope)
        t_l, t_r, a_l, a_r = [p.to(opmath_dtype(p.dtype)) for p in parameters]
        # As pwlu treats crossed bounds, so the values at them: t_r keeps its gradient.
        crossed = ((t_l + PWLU_MIN_WIDTH).clamp(min=t_r) - t_r).detach()
        points = torch.stack([t_l, t_r + crossed], 1)
        return pwlu(x, t_l, t_r, a_l, a_r, points, channel_dim=dim, norm=norm)
