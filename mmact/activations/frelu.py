# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""FReLU: the funnel activation.

Paper: Ma, Zhang, Sun, Funnel Activation for Visual Recognition, ECCV 2020, section 3.1:
y = max(x, T(x)) with the spatial condition T a depthwise convolution followed by BatchNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._arguments import integer, refuse
from .base import ChannelActivation, ChannelsError, where


class FReLU(ChannelActivation):
    """Funnel ReLU: ``max(x, BN(depthwise_conv(x)))``.

    Args:
        num_channels: Number of channels C. None takes it from the surroundings when the module is
            registered into a parent (see :mod:`mmact.activations.base`).
        kernel_size: Side of the square window, odd (the paper uses 3).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: (B, C, H, W).

    Attributes:
        conv: The depthwise convolution. It is one, and what frameworks do to convolutions (their
            initialisation, their weight decay) is meant for it.
        bn: The BatchNorm after it.

    Raises:
        ValueError: If kernel_size is not odd and positive, or an input is not (B, C, H, W).
        RuntimeError: In forward, if the number of channels is not known.
    """

    elementwise = False
    paper = 'Ma, Zhang, Sun, Funnel Activation for Visual Recognition, ECCV'
    year = 2020
    parameter_count = (11, 'channel')

    def __init__(
        self, num_channels: int | None = None, *, kernel_size: int = 3, inplace: bool = False
    ) -> None:
        super().__init__(num_channels, channel_dim=1)
        owner, wanted = type(self).__name__, 'odd and positive'
        self.kernel_size = integer(owner, 'kernel_size', kernel_size, 1, wanted=wanted)
        if self.kernel_size % 2 == 0:
            refuse(owner, 'kernel_size', wanted, kernel_size)
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates the depthwise convolution (without bias) and the BatchNorm after it."""
        self.conv = nn.Conv2d(
            num_functions,
            num_functions,
            self.kernel_size,
            padding=self.kernel_size // 2,
            groups=num_functions,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(num_functions)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x, (B, C, H, W)."""
        self.require_resolved()
        if x.dim() != 4 or x.size(1) != self.num_channels:
            raise ChannelsError(
                f'FReLU{where(self)} needs an input of shape (B, {self.num_channels}, H, W), '
                f'got {tuple(x.shape)}; pass num_channels to fit'
            )
        return torch.maximum(x, self.bn(self.conv(x)))

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'num_channels={self.num_channels}, kernel_size={self.kernel_size}'
