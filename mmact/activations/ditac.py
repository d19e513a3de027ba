# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""DiTAC: activations made of a learned, invertible transformation of the line.

Paper: Chelly, Finder, Ifergane, Freifeld, Trainable Highly-expressive Activation Functions, ECCV
2024; equations and tables by the numbers of its supplementary material.

Where the paper leaves a choice, or errs:

- Section C says in words that data in [a, b] first go through T and then through GELU, which would
  be T(x) * Phi(T(x)). Eq. 4 prints T(x) * Phi(x), and so it is here.
- Eq. 6 jumps at a if a is negative: T(a) = a meets LeakyReLU(a) = negative_slope * a. The default
  domain of 'leaky' begins at 0; others are taken literally.
- Eq. 7 writes the outer affine maps as matrices. With velocities of 0 at both ends they
  are a + exp(slope) * (x - a) and b + exp(slope) * (x - b).
- [a, b] is "user-defined". The authors' program uses [-0.5, 2] for the GELU-like version and has no
  other. The defaults here: that for 'gelu'; [0, 2], the same right end, for 'ge' and 'leaky'; and
  [-3, 3], where nearly all of a normalised input lies, for 'inf', which has nothing else to
  be outside.
- Velocities are in units of x per unit of time, whatever the domain, and 0 at both ends in every
  version, so that num_cells - 1 are learned (the 9 of Table 8).
- The text does not give the smoothness prior in numbers; see :class:`DiTAC`. The authors' program
  has two, one to draw from and one to regularise with, both on the slopes and offsets of the cells:
  ``prior='authors'``. It multiplies theta by the precision matrix elementwise to get the gradient
  of the regulariser; here it is the gradient of the quadratic form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..ops._arguments import choice, integer, number
from ..ops.cpab import check_domain, cpab
from ..ops.norm import Norm
from ..ops.reference import opmath_dtype
from .base import ChannelActivation

#: The versions, and their default domains.
DOMAINS: dict[str, tuple[float, float]] = {
    'gelu': (-0.5, 2.0),
    'ge': (0.0, 2.0),
    'leaky': (0.0, 2.0),
    'inf': (-3.0, 3.0),
}

#: What T is multiplied by, as mmact.ops.cpab names it.
_FACTORS = {'gelu': 'gelu', 'ge': 'gelu_below_0', 'leaky': 'leaky', 'inf': 'one'}

#: Added to the diagonal of the prior's covariance, times the variance: it stays invertible however
#: long the length scale.
_NUGGET = 1e-6


@lru_cache
def _prior_factor(num_cells: int, length_scale: float, variance: float) -> Tensor:
    """Cholesky factor L of the prior's covariance on a domain of width 1, (N - 1, N - 1)."""
    place = torch.arange(num_cells + 1, dtype=torch.float64, device='cpu') / num_cells
    distance = (place - place.unsqueeze(1)) / length_scale
    covariance = torch.exp(-0.5 * distance**2) + _NUGGET * torch.eye(len(place)).to(place)
    inner, ends = slice(1, -1), [0, -1]
    across = covariance[inner][:, ends]
    known = torch.linalg.solve(covariance[ends][:, ends], across.T)
    return torch.linalg.cholesky(variance * (covariance[inner, inner] - across @ known))


@lru_cache
def _prior_factor_on(device: torch.device, dtype: torch.dtype, *prior) -> Tensor:
    """_prior_factor(*prior) on a device, which it is copied to once."""
    return _prior_factor(*prior).to(device, dtype)


@lru_cache
def _authors_prior(num_cells: int) -> tuple[Tensor, Tensor]:
    """The priors of the authors' program, for velocities v at the inner knots of [0, 1].

    A field is there a vector of slopes and offsets of the cells, in turn, in an orthonormal basis
    of those that are continuous and 0 at both ends.

    Returns:
        R, (N - 1, N - 1): v = R z is a draw for a standard normal z. Q, (N - 1, N - 1): v^T Q v is
        the regulariser.
    """
    options: dict[str, Any] = dict(dtype=torch.float64, device='cpu')
    knots = torch.arange(num_cells + 1, **options) / num_cells
    velocity = torch.eye(num_cells + 1, **options)[:, 1:-1]
    slope = num_cells * velocity.diff(dim=0)
    offset = velocity[:-1] - knots[:-1, None] * slope
    basis, triangle = torch.linalg.qr(torch.stack([slope, offset], 1).flatten(0, 1))

    # The draw: length scale 5 and variance 2^2. The distance of a slope and an offset counts as 100
    # times the largest one.
    centres = (knots[1:] + knots[:-1]) / 2
    distance = (centres - centres[:, None]).abs()
    far = (100 * distance.max()).expand_as(distance)
    blocks = torch.stack([torch.stack([distance, far], 2), torch.stack([far, distance], 2)], 1)
    distance = blocks.reshape(2 * num_cells, 2 * num_cells)
    covariance = basis.T @ (2**2 * torch.exp(-distance / (2 * 5**2))) @ basis
    values, vectors = torch.linalg.eigh(covariance)
    draw = torch.linalg.solve_triangular(triangle, vectors * values.clamp(min=0).sqrt(), upper=True)

    # The regulariser: length scale 5 and variance (2 D)^2 of D numbers placed evenly on [-1, 1].
    place = torch.linspace(-1, 1, 2 * num_cells, **options)
    distance = (place - place[:, None]).abs()
    covariance = basis.T @ (torch.exp(-2 * distance / 5) * (4 * num_cells) ** 2) @ basis
    covariance += torch.finfo(torch.float32).eps * torch.eye(num_cells - 1, **options)
    return draw, triangle.T @ torch.linalg.solve(covariance, triangle)


@lru_cache
def _authors_precision_on(device: torch.device, dtype: torch.dtype, num_cells: int) -> Tensor:
    """Q of _authors_prior on a device, which it is copied to once."""
    return _authors_prior(num_cells)[1].to(device, dtype)


class DiTAC(ChannelActivation):
    """Diffeomorphism-based trainable activation: GELU or others of a learned CPAB transformation.

    T is a CPAB transformation (:func:`mmact.ops.cpab`): the flow of a velocity field that is
    piecewise affine on [a, b]. The versions (section C, Eq. 4 to 7), Phi being the standard normal
    distribution function:

    - ``'gelu'``, the paper's DiTAC: T(x) Phi(x) on [a, b], GELU outside;
    - ``'ge'``, GE-DiTAC: GELU below 0, T on [0, b], x above;
    - ``'leaky'``, L-DiTAC: T on [a, b], LeakyReLU outside;
    - ``'inf'``, inf-DiTAC: T on [a, b], and outside the flow of the outer cells continued, which is
      affine.

    With theta = 0, T is the identity, and the versions are GELU, GELU below 0 and x above,
    LeakyReLU (with a = 0), and the identity.

    The smoothness prior: theta, divided by the width b - a, is a Gaussian process over the knots,
    of mean 0 and covariance variance * exp(-d^2 / (2 length_scale^2)), d being the distance of
    two knots divided by b - a, given that it is 0 at both ends. A millionth of the variance is
    added to the diagonal. With ``prior='authors'`` it is that of the authors' program, which
    regularises with a weight of 0.1 (``ActivationRegularizerHook``).

    Args:
        num_channels: Number of channels C, of use where num_groups is not 1. None takes it from the
            surroundings when the module is registered into a parent (see
            :mod:`mmact.activations.base`).
        version: As above.
        num_cells: Number N >= 2 of cells of equal width.
        domain: (a, b), finite; a must be 0 for 'ge'. None: (-0.5, 2) for 'gelu', (0, 2) for 'ge'
            and 'leaky', (-3, 3) for 'inf'. The module's docstring says why.
        negative_slope: Slope of LeakyReLU below 0, of 'leaky'.
        init: ``'zero'``, or ``'prior'`` to draw theta from the smoothness prior.
        prior: ``'knots'``, the one above, or ``'authors'``, those of the authors' program.
        length_scale: Of the prior ``'knots'``, as a fraction of b - a.
        variance: Of the prior ``'knots'``, as a fraction of (b - a)^2.
        num_groups: Number of functions G. 1: one for the layer (the paper's setting), which needs
            no number of channels; None: one for each channel; a divisor of C: groups of
            neighbouring channels share one.
        channel_dim: Dimension of the input that holds the channels. None takes it from the
            surroundings (-1 after linear layers and LayerNorm, else 1).
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape, with C channels at ``channel_dim`` if G > 1; dtype and
        memory format are kept. NaN gives NaN; infinities give the limits of the function.

    Attributes:
        theta: Velocities at the inner knots, in units of x per unit of time, flat;
            ``rows('theta')`` is (G, num_cells - 1). They act up to 32 cells per unit of time.

    Raises:
        ValueError: If an argument is out of range, or an input does not have C channels.
        RuntimeError: In forward, if the number of channels is not known.

    It exports to ONNX as it is; what :func:`mmact.activations.to_pwlu` makes of it is faster there.

    Example:
        >>> act = DiTAC()
        >>> act(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    paper = (
        'Chelly, Finder, Ifergane, Freifeld, Trainable Highly-expressive Activation Functions, ECCV'
    )
    year = 2024
    parameter_count = (9, 'layer')
    elementwise_op = 'cpab'

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        version: str = 'gelu',
        num_cells: int = 10,
        domain: tuple[float, float] | None = None,
        negative_slope: float = 0.01,
        init: str = 'zero',
        prior: str = 'knots',
        length_scale: float = 0.1,
        variance: float = 1e-3,
        num_groups: int | None = 1,
        channel_dim: int | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_channels, num_groups=num_groups, channel_dim=channel_dim)
        owner = type(self).__name__
        self.version = choice(owner, 'version', version, DOMAINS)
        self.num_cells = integer(owner, 'num_cells', num_cells, 2)
        self.init = choice(owner, 'init', init, ('zero', 'prior'))
        self.prior = choice(owner, 'prior', prior, ('knots', 'authors'))
        self.negative_slope = number(owner, 'negative_slope', negative_slope)
        self.length_scale = number(owner, 'length_scale', length_scale, above=0)
        self.variance = number(owner, 'variance', variance, above=0)
        self.domain = check_domain(owner, DOMAINS[version] if domain is None else domain)
        if version == 'ge' and self.domain[0] != 0:
            raise ValueError(
                f"{owner}: the domain of version 'ge' must begin at 0, got {domain!r} (version "
                f"'gelu' takes any)"
            )
        self._start()

    def build(self, num_functions: int) -> None:
        """Creates theta, at zero or drawn from the prior."""
        theta = torch.zeros(num_functions, self.num_cells - 1)
        if self.init == 'prior':
            a, b = self.domain
            noise = torch.randn(theta.shape, dtype=torch.float64, device='cpu')
            authors = self.prior == 'authors'
            root = _authors_prior(self.num_cells)[0] if authors else _prior_factor(*self._prior())
            theta.copy_((b - a) * (noise @ root.T))
        self.theta = nn.Parameter(theta.reshape(-1))

    def _prior(self) -> tuple[int, float, float]:
        return self.num_cells, self.length_scale, self.variance

    def forward(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """Applies the function to x."""
        dim = self._dim(x)
        extend = 'affine' if self.version == 'inf' else 'identity'
        factor = _FACTORS[self.version]
        return cpab(
            x, self.rows('theta'), self.domain, dim, extend, factor, self.negative_slope, norm
        )

    def smoothness(self) -> Tensor:
        """The smoothness regulariser: theta^T Sigma^-1 theta, Sigma being the prior's covariance.

        Returns:
            One number, differentiable in theta, summed over channels. For a theta drawn from the
            prior ``'knots'`` it is on average the number of elements of theta.

        Raises:
            RuntimeError: If the number of channels is not known.
        """
        self.require_resolved()
        a, b = self.domain
        theta = self.rows('theta').T.to(opmath_dtype(self.theta.dtype))
        if self.prior == 'authors':
            precision = _authors_precision_on(theta.device, theta.dtype, self.num_cells)
            velocity = theta / (b - a)
            return (velocity * (precision @ velocity)).sum()
        factor = _prior_factor_on(theta.device, theta.dtype, *self._prior())
        whitened = torch.linalg.solve_triangular(factor, theta / (b - a), upper=False)
        return whitened.square().sum()

    def extra_repr(self) -> str:
        """Returns the settings, for print."""
        return (
            f'version={self.version!r}, num_cells={self.num_cells}, domain={self.domain}, '
            f'{super().extra_repr()}'
        )
