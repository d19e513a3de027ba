# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""GroupRational: the group-rational unit of the Kolmogorov-Arnold Transformer (KAT).

Paper: Yang, Wang, Kolmogorov-Arnold Transformer, ICLR 2025 (arXiv 2409.10594).
FlashKAT computes the same function.

It is a Padé activation unit in the form 1 + abs(b_1 x) + ... + abs(b_n x^n) (version 'A' of
:func:`mmact.ops.pau`) whose numerator all channels share, while each group of neighbouring channels
has a denominator. That is what KAT's Triton and CUDA kernels compute; the plain PyTorch form that
its package runs on CPUs takes abs(b_k) x^k, another function with poles.

The initial coefficients are not copies of KAT's tables. They are least-squares fits of the same
functions on [-3, 3] (:func:`mmact.activations.pau_init.initial_coefficients`); 'identity' is exact.
Trained coefficients are read from KAT's checkpoints (``weight_numerator``, ``weight_denominator``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._arguments import integer, positive
from ..ops.norm import Norm
from ..ops.pau import MAX_ORDER, pau
from .base import ChannelActivation
from .functions import Function
from .pau_init import initial_coefficients


class GroupRational(ChannelActivation):
    """KAT's group-rational unit: P(x) / Q_g(x), with one P and a Q for each group of channels.

    Args:
        num_channels: Number of channels C. Not needed: the parameters do not depend on it.
        num_groups: Number G of groups of neighbouring channels, a divisor of C.
        m: Order of the numerator P.
        n: Order of the denominators Q.
        init: Function that it starts as: a name, such as ``'identity'`` and ``'swish'`` (the first
            and second unit of a KAT block) or ``'gelu'``, or a function from tensor to tensor. See
            :func:`mmact.activations.pau_init.initial_coefficients`.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1). KAT's is -1.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape, with a multiple of G channels at ``channel_dim``; dtype and
        memory format are kept. NaN gives NaN.

    Attributes:
        numerator: a_0 to a_m, (m + 1,).
        denominator: b_1 to b_n of each group, one after the other, (G * n,).

    Raises:
        ValueError: If an argument is out of range, or an input's channels cannot be shared by G.

    Example:
        >>> act = GroupRational(num_groups=4, init='swish', channel_dim=-1)
        >>> act(torch.randn(2, 50, 64)).shape
        torch.Size([2, 50, 64])
    """

    paper = 'Yang, Wang, Kolmogorov-Arnold Transformer, ICLR'
    year = 2025
    parameter_count = (38, 'layer')  # 6 and 4 for each of 8 groups
    elementwise_op = 'pau'
    # KAT's names; its shapes are (1, m + 1) and (G, n).
    _renamed = {'weight_numerator': 'numerator', 'weight_denominator': 'denominator'}

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        num_groups: int = 8,
        m: int = 5,
        n: int = 4,
        init: str | Function = 'swish',
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        owner = type(self).__name__
        (num_groups,) = positive(owner, num_groups=num_groups)
        m, n = (integer(owner, k, v, 1, MAX_ORDER - 1) for k, v in (('m', m), ('n', n)))
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        self.m, self.n, self.init = m, n, init
        if isinstance(init, str) and init == 'identity':
            a, b = torch.zeros(m + 1), torch.zeros(n)
            a[1] = 1
        else:
            a, b = initial_coefficients(init, m, n, 'A', owner)
        dtype, device = torch.get_default_dtype(), torch.empty(0).device
        self.numerator = nn.Parameter(a.to(device, dtype))
        self.denominator = nn.Parameter(b.to(device, dtype).repeat(num_groups))

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x."""
        numerator = self.numerator.expand(self.num_functions, -1)
        return pau(x, numerator, self.rows('denominator'), self._dim(x), 'A', norm=norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'm={self.m}, n={self.n}, init={self.init!r}, {super().extra_repr()}'
