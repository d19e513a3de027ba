# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Maxout: the maximum over groups of channels.

Paper: Goodfellow, Warde-Farley, Mirza, Courville, Bengio, Maxout Networks, ICML 2013.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._arguments import integer
from ..ops._compat import is_compiling
from .base import ChannelActivation, ChannelsError, where


class Maxout(ChannelActivation):
    """Maximum over each group of k neighbouring channels; C channels become C / k.

    The learned part is the layer before it, which must have k times the channels: for 64 results
    with k = 2, ``ConvModule(c, 128, 3, act_cfg=dict(type='Maxout'))``, and the next layer
    takes 64 (``ConvModule.out_channels`` still says 128; ``Maxout.out_channels`` says 64).

    Args:
        num_channels: Number of input channels C. None takes it from the surroundings when the
            module is registered into a parent (see :mod:`mmact.activations.base`); where they do
            not tell, any input will do.
        k: Number of channels in a group, >= 2.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input: any shape with C channels at ``channel_dim``. Output: the same with C / k channels;
        dtype and memory format are kept. A group with a NaN gives NaN.

    Raises:
        ValueError: If k is not an integer >= 2, or C no multiple of it: as soon as C is known, when
            the module is built, or when it is registered into a parent; else in forward.
    """

    # Not a function of one number: tools that draw curves leave it out.
    elementwise = False
    paper = 'Goodfellow, Warde-Farley, Mirza, Courville, Bengio, Maxout Networks, ICML'
    year = 2013

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        k: int = 2,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, channel_dim=channel_dim)
        self.k = integer(type(self).__name__, 'k', k, 2, wanted='an integer >= 2')
        self._start()

    def build(self, num_functions: int) -> None:
        """Checks that the channels can be grouped; there are no parameters."""
        self._check_groups(num_functions)

    def _check_groups(self, num_channels: int) -> None:
        if num_channels % self.k:
            raise ValueError(
                f'Maxout: {num_channels} channels cannot be grouped by k={self.k}; give the layer '
                f'before it a multiple of {self.k} channels (k times those wanted after it)'
            )

    @property
    def out_channels(self) -> int | None:
        """Number of channels of the result, C / k; None if C is not known."""
        return None if self.num_channels is None else self.num_channels // self.k

    def forward(self, x: Tensor) -> Tensor:
        """Takes the maximum over each group of channels of x."""
        dim = 1 if self.channel_dim is None else self.channel_dim
        if not -x.dim() <= dim < x.dim() or self.num_channels not in (None, x.size(dim)):
            wanted = 'channels' if self.num_channels is None else f'{self.num_channels} channels'
            raise ChannelsError(
                f'Maxout{where(self)} needs {wanted} at dimension {dim}, got an input of shape '
                f'{tuple(x.shape)}; pass num_channels and channel_dim (-1 for channel-last tokens)'
            )
        dim %= x.dim()
        self._check_groups(x.size(dim))
        # A reduction lays its result out in the order of the dimensions: they are put in the order
        # in which they lie in memory first, so that channels_last stays what it is.
        if is_compiling():  # where strides may be symbols, which have no order
            order = list(range(x.dim()))
            if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
                order = [0, 2, 3, 1]
        else:
            order = sorted(range(x.dim()), key=x.stride, reverse=True)
        places = {d: place for place, d in enumerate(order)}
        at = places[dim]
        y = x.permute(order).unflatten(at, (x.size(dim) // self.k, self.k)).amax(at + 1)
        return y.permute([places[d] for d in range(x.dim())])

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'k={self.k}, num_channels={self.num_channels}, channel_dim={self.channel_dim}'
