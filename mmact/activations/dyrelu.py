# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Dynamic ReLU, variants A, B and C: linear functions that a hyper function makes of the input.

Paper: Chen, Dai, Liu, Chen, Yuan, Liu, Dynamic ReLU, ECCV 2020 (arXiv 2003.10027), sections 3
and 4.

Where the paper leaves a choice, or errs:

- Eq. 4's alpha and beta are the coefficients' initial values only if the residual starts at 0. The
  paper does not say how; the second linear layer starts at zero here. With the default alphas
  and betas, A and B then start as ReLU, to the bit and with its gradients.
- The hyper function's first layer has C // R units (figure 2), at least one.
- Where several of the linear functions meet, the last one gives the gradient: ReLU's at 0.
- Section 4.1 multiplies the attention of Eq. 5 with slopes and intercepts. It is positive, so
  that it can multiply their maximum instead; so it does.
- The attention's 1x1 convolution has no bias: the softmax of Eq. 5 would not notice one. Its weight
  starts at zero, so that at first all pixels have the same attention, gamma: DyReLUC starts as
  gamma times ReLU. Three times the default alphas, lambda_a and lambda_b start it as ReLU.
- The network sees all elements of a sample through the average: one NaN makes all of its sample
  NaN, as in every layer that pools.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._arguments import number, optional, positive, several
from ..ops.dyrelu import dyrelu
from ..ops.dyrelu_squeeze import dyrelu_squeeze
from .base import ChannelActivation, ChannelsError, where


class _DyReLU(ChannelActivation):
    """The common part of the variants: the hyper function (section 3.2, Eq. 4, figure 2)."""

    elementwise = False
    hyper_function = True
    paper = 'Chen, Dai, Liu, Chen, Yuan, Liu, Dynamic ReLU, ECCV'
    year = 2020
    num_functions = 1  # the hyper function is one for the layer
    _renamed = {f'fc{i}.{kind}': f'fc{i}_{kind}' for i in (1, 2) for kind in ('weight', 'bias')}

    fc1_weight: nn.Parameter
    fc1_bias: nn.Parameter
    fc2_weight: nn.Parameter
    fc2_bias: nn.Parameter
    attend: Callable[[Tensor], Tensor]  # of variant C

    _per_channel = True  # whether every channel has its own coefficients

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        K: int = 2,
        reduction: int = 8,
        alphas: Sequence[float] | None = None,
        betas: Sequence[float] | None = None,
        lambda_a: float | Sequence[float] = 1.0,
        lambda_b: float | Sequence[float] = 0.5,
        context_channels: int | None = None,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, channel_dim=channel_dim)
        owner = type(self).__name__
        self.K, self.reduction = positive(owner, K=K, reduction=reduction)
        self.context_channels = optional(owner, 'context_channels', context_channels, 1)
        K = self.K
        alphas = [1.0] + [0.0] * (K - 1) if alphas is None else alphas
        self.alphas = list(several(owner, 'alphas', alphas, K))
        self.betas = list(several(owner, 'betas', [0.0] * K if betas is None else betas, K))
        self.lambda_a, self.lambda_b = lambda_a, lambda_b
        # Eq. 4 with the residual 2 s - 1 is a line in s; for all coefficients at once, in the order
        # of Eq. 2: slopes, then intercepts.
        scale = self._ranges('lambda_a', lambda_a) + self._ranges('lambda_b', lambda_b)
        lowest = [a - s for a, s in zip(self.alphas + self.betas, scale, strict=True)]
        self._lines = [_runs(lowest), _runs([2 * s for s in scale])]
        self._start()

    def _ranges(self, name: str, given: float | Sequence[float]) -> list[float]:
        """One range for each function."""
        owner, wanted = type(self).__name__, f'a finite number, or {self.K} of them'
        if isinstance(given, Sequence) and not isinstance(given, str):
            return list(several(owner, name, given, self.K, wanted))
        return [number(owner, name, given, wanted=wanted)] * self.K

    def _start(self) -> None:
        if self.num_channels is not None:
            self.build(self.num_channels)

    def build(self, num_channels: int) -> None:
        """Creates the hyper function's two linear layers; the second starts at zero.

        Without a bias at the start, units of the first are positive for some samples and not for
        others: a single one, as few channels have, would else often be dead. Its weight is drawn as
        nn.Linear draws it.
        """
        bound = 1 / math.sqrt(self.seen_channels)
        hidden = self.hidden_channels
        outputs = 2 * self.K * (num_channels if self._per_channel else 1)
        weight = torch.empty(hidden * self.seen_channels).uniform_(-bound, bound)
        self.fc1_weight = nn.Parameter(weight)
        self.fc1_bias = nn.Parameter(torch.zeros(hidden))
        self.fc2_weight = nn.Parameter(torch.zeros(outputs * hidden))
        self.fc2_bias = nn.Parameter(torch.zeros(outputs))

    @property
    def seen_channels(self) -> int:
        """Number of channels that the hyper function sees: ``context_channels``, or C."""
        return self.context_channels or self.num_channels or 0

    @property
    def hidden_channels(self) -> int:
        """Number of units of the first linear layer."""
        return max(1, self.seen_channels // self.reduction)

    def gate(self, z: Tensor) -> Tensor:
        """s in the residual 2 s - 1: the sigmoid (section 3.2)."""
        return z.sigmoid()

    def coefficients(self, mean: Tensor) -> Tensor:
        """The hyper function: Eq. 2 and 4.

        Args:
            mean: What it sees of each sample, averaged over its pixels: (B, C).

        Returns:
            K slopes, then K intercepts: (B, 2 K, C); (B, 2 K, 1) for :class:`DyReLUA`.
        """
        hidden = self.hidden_channels
        z = F.linear(
            mean.to(self.fc1_weight.dtype), self.fc1_weight.view(hidden, -1), self.fc1_bias
        )
        z = F.linear(F.relu(z), self.fc2_weight.view(-1, hidden), self.fc2_bias)
        width = self.fc2_bias.numel() // (2 * self.K)
        gate = self.gate(z.to(mean.dtype)).reshape(-1, 2 * self.K, width)
        # Filled, not copied: a copy from the host would be waited for on a GPU, and cannot be part
        # of a CUDA graph.
        lowest, size = [
            torch.cat([mean.new_full((count, 1), value) for value, count in runs])
            for runs in self._lines
        ]
        return torch.addcmul(lowest, size, gate)

    def _projection(self) -> Tensor | None:
        """The weight of the attention's 1x1 convolution, (C,); None for A and B."""
        return None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the function.

        Args:
            x: (B, ..., C, ...), C at ``channel_dim``.
            context: What the hyper function sees in place of x; with ``context_channels`` channels.

        Returns:
            Tensor of x's shape, dtype and memory format.

        Raises:
            RuntimeError: If the number of channels is not known.
            ValueError: If x or context does not have the number of channels it should have.
        """
        self.require_resolved()
        dim = self._dim_of(x, self.num_channels or 0, 'the layer has')
        seen = self.seen_channels
        context_dim = self._dim_of(
            x if context is None else context, seen, 'the hyper function sees'
        )
        projection = self._projection()
        # Averages are float32 also under autocast: a sum of thousands of float16 may overflow.
        if context is None:
            x, mean, logits = dyrelu_squeeze(x, projection, dim)
        else:
            logits = None
            if projection is not None:
                x, _, logits = dyrelu_squeeze(x, projection, dim)
            _, mean, _ = dyrelu_squeeze(context, None, context_dim)
        attention = None if logits is None else self.attend(logits)
        return dyrelu(x, self.coefficients(mean), attention, dim)

    def _dim_of(self, x: Tensor, channels: int, what: str) -> int:
        """The dimension of x's channels, counted from the front."""
        dim = 1 if self.channel_dim is None else self.channel_dim
        if x.dim() < 2 or not -x.dim() <= dim < x.dim() or x.size(dim) != channels:
            raise ChannelsError(
                f'{type(self).__name__}{where(self)}: {what} {channels} channels, at dimension '
                f'{dim}; got an input of shape {tuple(x.shape)}. Pass num_channels, channel_dim '
                f'(-1 for channel-last tokens) and, if forward gets a context, context_channels'
            )
        return dim % x.dim()

    def extra_repr(self) -> str:
        return (
            f'num_channels={self.num_channels}, K={self.K}, reduction={self.reduction}, '
            f'alphas={self.alphas}, betas={self.betas}, lambda_a={self.lambda_a}, '
            f'lambda_b={self.lambda_b}, context_channels={self.context_channels}, '
            f'channel_dim={self.channel_dim}'
        )


def _runs(values: list[float]) -> list[tuple[float, int]]:
    """Values as (value, how often in a row)."""
    return [(value, len(list(same))) for value, same in itertools.groupby(values)]


class DyReLUB(_DyReLU):
    """Dynamic ReLU, spatial-shared and channel-wise: ``max_k(a_k(x) * x + b_k(x))``.

    The coefficients of every channel are made of all of the sample by a hyper function: average
    over pixels, two linear layers with a ReLU between them, and the normalization of Eq. 4.

    Args:
        num_channels: Number of channels C; None to take it from the surroundings.
        K: Number of linear functions.
        reduction: R: the first linear layer has C // R units, but at least one.
        alphas: K initial slopes; 1, 0, ..., 0 by default.
        betas: K initial intercepts; zeros by default.
        lambda_a: Range of the slopes around the initial ones (Eq. 4); or K ranges, one for each
            function. A function of ranges 0 keeps its initial line: Table 7's max{ax + b, 0} is
            ``lambda_a=(1, 0), lambda_b=(0.5, 0)``.
        lambda_b: Range of the intercepts, likewise.
        context_channels: Number of channels of what the hyper function sees, if that is a tensor of
            its own (see ``forward``) and does not have C.
        channel_dim: Dimension that holds the channels, not 0; None to take it from the
            surroundings, and 1 where they do not tell.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: (B, C, ...), or with channels at another dimension than 0; dtype and
        memory format are kept.

    Attributes:
        fc1_weight, fc1_bias, fc2_weight, fc2_bias: The linear layers of the hyper function; weights
            are flat, in the order of nn.Linear's (outputs, inputs). The second puts out 2 * K * C
            numbers in the order of Eq. 2.

    Raises:
        ValueError: If an argument is out of range.
        RuntimeError: In forward, if the number of channels is not known.

    Example:
        >>> act = DyReLUB(64)
        >>> act(torch.randn(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    parameter_count = (2824, 'layer of 64 channels')


class DyReLUA(_DyReLU):
    """Dynamic ReLU, spatial- and channel-shared: one function for each sample.

    Args:
        num_channels: Number of channels C; None to take it from the surroundings.
        K: Number of linear functions.
        reduction: R: the first linear layer has C // R units, but at least one.
        alphas: K initial slopes; 1, 0, ..., 0 by default.
        betas: K initial intercepts; zeros by default.
        lambda_a: As for :class:`DyReLUB`.
        lambda_b: As for :class:`DyReLUB`.
        context_channels: As for :class:`DyReLUB`.
        channel_dim: As for :class:`DyReLUB`.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: (B, C, ...), or with channels at another dimension than 0; dtype and
        memory format are kept.

    Attributes:
        fc1_weight, fc1_bias, fc2_weight, fc2_bias: As of :class:`DyReLUB`; the second layer puts
            out 2 * K numbers.

    Raises:
        ValueError: If an argument is out of range.
        RuntimeError: In forward, if the number of channels is not known.
    """

    _per_channel = False
    parameter_count = (556, 'layer of 64 channels')


class DyReLUC(_DyReLU):
    """Dynamic ReLU, spatial- and channel-wise: :class:`DyReLUB` times an attention per pixel.

    The attention (Eq. 5) is a 1x1 convolution to one channel, a softmax with temperature over the
    pixels, scaled up and cut at 1.

    Args:
        num_channels: Number of channels C; None to take it from the surroundings.
        K: Number of linear functions.
        reduction: R: the first linear layer has C // R units, but at least one.
        alphas: K initial slopes; 1, 0, ..., 0 by default.
        betas: K initial intercepts; zeros by default.
        lambda_a: As for :class:`DyReLUB`.
        lambda_b: As for :class:`DyReLUB`.
        temperature: tau of Eq. 5.
        gamma: Average attention before the cut at 1: gamma of Eq. 5 in units of the number of
            pixels, 1/3 in the paper.
        context_channels: As for :class:`DyReLUB`.
        channel_dim: As for :class:`DyReLUB`.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: (B, C, ...), or with channels at another dimension than 0; dtype and
        memory format are kept.

    Attributes:
        fc1_weight, fc1_bias, fc2_weight, fc2_bias: As of :class:`DyReLUB`.
        attention_weight: Weight of the 1x1 convolution without bias, (C,).

    Raises:
        ValueError: If an argument is out of range.
        RuntimeError: In forward, if the number of channels is not known.
    """

    parameter_count = (2888, 'layer of 64 channels')
    _renamed = {**_DyReLU._renamed, 'attention.weight': 'attention_weight'}

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        temperature: float = 10.0,
        gamma: float = 1 / 3,
        **kwargs,
    ) -> None:
        owner = type(self).__name__
        self.temperature = number(owner, 'temperature', temperature, above=0)
        self.gamma = number(owner, 'gamma', gamma, above=0)
        super().__init__(num_channels, **kwargs)

    def build(self, num_channels: int) -> None:
        """Creates the hyper function and the attention's 1x1 convolution, which starts at zero."""
        super().build(num_channels)
        self.attention_weight = nn.Parameter(torch.zeros(num_channels))

    def _projection(self) -> Tensor:
        return self.attention_weight

    def attend(self, logits: Tensor) -> Tensor:
        """The attention of Eq. 5, of the shape of ``logits``, z in the paper."""
        flat = logits.flatten(1)
        weights = self.gamma * flat.size(1) * (flat / self.temperature).softmax(1)
        return weights.clamp(max=1).reshape(logits.shape)

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return f'{super().extra_repr()}, temperature={self.temperature}, gamma={self.gamma}'
