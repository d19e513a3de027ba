# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""ACON-C and Meta-ACON: a learned choice between two lines.

Paper: Ma, Zhang, Liu, Sun, Activate or Not: Learning Customized Activation, CVPR 2021.

ACON-C is the smooth maximum of p1 x and p2 x. Its switch beta decides between their maximum (large
beta) and their mean (0). Meta-ACON makes beta of the sample, for each channel.

Where the paper leaves a choice:

- The authors' code draws the initial p1 and p2 from the standard normal distribution, which here is
  what None says. With p1 = 1, p2 = 0 ACON-C starts as Swish.
- The hyper function of Meta-ACON is two linear maps of the channels' averages, here with
  biases and without anything between them. The authors' code has a BatchNorm after each,
  which fails for one sample and one pixel; YOLOv5 has none.

Checkpoints with YOLOv5's AconC or MetaAconC, or the authors' ACON-C, are read as they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import reference
from ..ops._arguments import number, positive
from ..ops._library import dense
from ..ops.acon import acon
from ..ops.norm import Norm
from ..ops.reference import opmath_dtype
from .base import ChannelActivation


class AconC(ChannelActivation):
    """ACON-C: ``(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x``, learned for each channel.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        p1: Initial slope for large x (with beta * (p1 - p2) > 0); None draws one for each channel
            from the standard normal distribution.
        p2: The same, for small x.
        beta: Initial beta.
        num_groups: Number of functions G. None: one for each channel; 1: one for the layer, which
            needs no number of channels; a divisor of C: groups of neighbouring channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape with C channels at ``channel_dim``; dtype and memory format are
        kept. NaN gives NaN.

    Attributes:
        p1, p2, beta: (G,) each.

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.
    """

    paper = 'Ma, Zhang, Liu, Sun, Activate or Not: Learning Customized Activation, CVPR'
    year = 2021
    parameter_count = (3, 'channel')
    elementwise_op = 'acon'
    p1: nn.Parameter
    p2: nn.Parameter
    beta: nn.Parameter

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        p1: float | None = None,
        p2: float | None = None,
        beta: float = 1.0,
        num_groups: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        owner = type(self).__name__
        self._initial: dict[str, float | None] = {
            name: None if value is None else number(owner, name, value)
            for name, value in (('p1', p1), ('p2', p2))
        }
        self._initial['beta'] = number(owner, 'beta', beta)
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates p1, p2 and beta."""
        for name, value in self._initial.items():
            values = torch.empty(num_functions)
            values = values.normal_() if value is None else values.fill_(value)
            setattr(self, name, nn.Parameter(values))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        return acon(x, self.p1, self.p2, self.beta, self._dim(x), norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        initial = ', '.join(f'{name}={value}' for name, value in self._initial.items())
        return f'{initial}, {super().extra_repr()}'


class MetaAconC(AconC):
    """Meta-ACON: :class:`AconC` whose beta, for each channel, is made of the sample.

    beta = sigmoid(fc2(fc1(average over the pixels))).

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        reduction: r: fc1 has max(r, C // r) outputs.
        p1: Initial slope for large x; None draws one for each channel from the standard normal
            distribution.
        p2: The same, for small x.
        channel_dim: Dimension of the input that holds the channels, not 0. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: (B, C, ...), or with channels at another dimension than 0; dtype and
        memory format are kept. A NaN makes its sample's output NaN.

    Attributes:
        p1: (C,).
        p2: (C,).
        fc1_weight: (H * C,), H = max(r, C // r); fc1_bias: (H,).
        fc2_weight: (C * H,); fc2_bias: (C,).

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.
    """

    elementwise = False  # beta is made of all of the sample
    parameter_count = (2256, 'layer of 64 channels')
    elementwise_op = ''  # the function depends on averages of the input
    # YOLOv5's are 1x1 convolutions.
    _renamed = {f'fc{i}.{kind}': f'fc{i}_{kind}' for i in (1, 2) for kind in ('weight', 'bias')}

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        reduction: int = 16,
        p1: float | None = None,
        p2: float | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        (self.reduction,) = positive(type(self).__name__, reduction=reduction)
        super().__init__(num_channels, p1=p1, p2=p2, channel_dim=channel_dim)

    def build(self, num_channels: int) -> None:
        """Creates p1, p2 and the linear maps, which start as PyTorch's convolutions do."""
        del self._initial['beta']
        super().build(num_channels)
        hidden = max(self.reduction, num_channels // self.reduction)
        for name, inputs, outputs in (('fc1', num_channels, hidden), ('fc2', hidden, num_channels)):
            bound = 1 / math.sqrt(inputs)
            for part, size in (('weight', outputs * inputs), ('bias', outputs)):
                values = torch.empty(size).uniform_(-bound, bound)
                setattr(self, f'{name}_{part}', nn.Parameter(values))

    def switch(self, x: Tensor, dim: int) -> Tensor:
        """beta of each sample and channel, (B, C), in the arithmetic dtype of x."""
        dtype = opmath_dtype(x.dtype)
        pixels = [d for d in range(1, x.dim()) if d != dim % x.dim()]
        mean = x.mean(pixels, dtype=dtype) if pixels else x.to(dtype)
        for name in ('fc1', 'fc2'):
            bias = getattr(self, f'{name}_bias').to(dtype)
            weight = getattr(self, f'{name}_weight').to(dtype).view(bias.numel(), -1)
            mean = F.linear(mean, weight, bias)
        return mean.sigmoid()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # takes no norm
        """Applies the function to x, a tensor with C channels at ``channel_dim``."""
        dim = self._dim(x)
        if dim == 0:
            raise ValueError('MetaAconC: dimension 0 holds the samples, not the channels')
        # To the op every channel of every sample is a channel. Formats that do not have samples and
        # channels side by side are copied.
        rows = x.movedim(dim, 1)
        p1, p2 = self.p1.repeat(x.size(0)), self.p2.repeat(x.size(0))
        # Without samples there are no channels, which the reference alone allows.
        function = acon if x.size(0) > 0 else reference.acon
        y = function(rows.flatten(0, 1), p1, p2, self.switch(x, dim).flatten(), 0)
        return dense(x, y.view(rows.shape).movedim(1, dim))
