# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PAU and RPAU: Padé Activation Units, learned ratios of two polynomials.

Paper: Molina, Schramowski, Kersting, Padé Activation Units: End-to-end Learning of Flexible
Activation Functions in Deep Networks, ICLR 2020.

Where the paper leaves a choice, or errs:

- Section 2.2 uses sign(A) in the gradients and leaves sign(0) open: +1 here, so that denominators
  that start at 0 learn.
- Eq. 3 adds to a coefficient c noise from U((1 - alpha) c, (1 + alpha) c), which would double
  it on average. Meant is that the noisy coefficient is drawn from there: a relative
  error of up to alpha.
- Table 6 has errors; see :mod:`mmact.activations.pau_init` and docs/pau_coefficients.md.
- Section 3 counts m + n parameters per layer; there are m + n + 1 (10 for the default orders), as
  appendix A.3.1 counts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._arguments import integer, number
from ..ops.norm import Norm
from ..ops.pau import MAX_ORDER, pau
from .base import ChannelActivation
from .functions import Function
from .pau_init import initial_coefficients


class PAU(ChannelActivation):
    """Padé Activation Unit (Eq. 2): P(x) / Q(x) with learned coefficients.

    Args:
        num_channels: Number of channels C, of use where num_groups is not 1. None takes it from the
            surroundings when the module is registered into a parent (see
            :mod:`mmact.activations.base`).
        m: Order of the numerator P.
        n: Order of the denominator Q.
        init: Function that the initial coefficients approximate on [-3, 3]: a name, such as
            ``'leaky_relu_0.01'`` (the paper's experiments), ``'relu'``, ``'swish'``, ``'tanh'``,
            or a function from tensor to tensor. Fitted where no table exists.
        version: The form of the denominator, ``'A'``, ``'B'`` (the paper's safe PAU), ``'C'`` or
            ``'N'``; see :func:`mmact.ops.pau`. Coefficients trained with the package
            ``rational_activations`` give the same function under the letter they have there.
        num_groups: Number of functions G. 1: one for the layer (the paper's setting), which needs
            no number of channels; None: one for each channel; a divisor of C: groups of
            neighbouring channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape, with a multiple of G channels at ``channel_dim`` if
        G > 1; dtype and memory format are kept.

    Attributes:
        numerator: a_0 to a_m, flat; ``rows('numerator')`` is (G, m + 1).
        denominator: b_1 to b_n, flat; rows are (G, n), with version C from b_0 on (G, n + 1).

    Raises:
        ValueError: If an argument is out of range, or an input's channels cannot be shared by G.
        RuntimeError: In forward, if the number of channels is not known.

    Example:
        >>> act = PAU(init='tanh')
        >>> act(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    paper = (
        'Molina, Schramowski, Kersting, Padé Activation Units: End-to-end Learning of Flexible '
        'Activation Functions in Deep Networks, ICLR'
    )
    year = 2020
    parameter_count = (10, 'layer')
    elementwise_op = 'pau'

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        m: int = 5,
        n: int = 4,
        init: str | Function = 'leaky_relu_0.01',
        version: str = 'B',
        num_groups: int | None = 1,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        owner = type(self).__name__
        m, n = (integer(owner, k, v, 1, MAX_ORDER - 1) for k, v in (('m', m), ('n', n)))
        # Fitted now, so that a wrong name or function fails where it is written.
        self._initial = initial_coefficients(init, m, n, version, owner)
        self.m, self.n, self.init, self.version = m, n, init, version
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates the coefficients, every set at the initial function."""
        for name, values in zip(('numerator', 'denominator'), self._initial, strict=True):
            values = values.to(torch.get_default_dtype()).to(torch.empty(0).device)
            setattr(self, name, nn.Parameter(values.repeat(num_functions)))

    def _apply_pau(self, x: Tensor, noise: float, norm: Norm | None) -> Tensor:
        dim = self._dim(x)
        parameters = (self.rows('numerator'), self.rows('denominator'))
        return pau(x, *parameters, dim, self.version, noise, norm=norm)

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x."""
        return self._apply_pau(x, 0.0, norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return (
            f'm={self.m}, n={self.n}, init={self.init!r}, version={self.version!r}, '
            f'{super().extra_repr()}'
        )


class RPAU(PAU):
    """Randomized PAU (Eq. 3): in training every element sees coefficients of its own.

    Each coefficient is multiplied by a number drawn uniformly from [1 - alpha, 1 + alpha) for every
    element of the input. In evaluation it is :class:`PAU`. The noise follows
    ``torch.manual_seed``; backward draws it again from a seed instead of keeping it.

    Args:
        num_channels: As for :class:`PAU`.
        alpha: Relative size of the noise, in [0, 1]. Appendix A.4.1 uses 0.01 for VGG8 and
            MobileNetV2 and 0.1 for ResNet101.
        **kwargs: The other arguments of :class:`PAU`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, num_channels: int | None = None, *, alpha: float = 0.01, **kwargs) -> None:
        super().__init__(num_channels, **kwargs)
        self.alpha = number(type(self).__name__, 'alpha', alpha, 0, 1, wanted='in [0, 1]')

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x."""
        return self._apply_pau(x, self.alpha if self.training else 0.0, norm)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'alpha={self.alpha}, {super().extra_repr()}'
