# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The elementwise ops with parameters of their own, in the form that test_elementwise.py runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmact import ops
from mmact.ops import reference
from mmact.ops.cpab import _table, apply_table

from .utils import (
    Tolerance,
    between_breakpoints,
    generator,
    pwlu_parameters,
    random_tensor,
    with_gradients,
)

SEED = 0x1234567_89ABCDEF
Arguments = tuple  # of a raw op


def _uniform(g: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=g) * (high - low) + low


def _normal(shape, parameters, channel_dim, dtype, device, seed) -> Tensor:
    return (3 * random_tensor(shape, seed=seed)).to(device, dtype)


@dataclass(frozen=True)
class Case:
    """An op with fixed settings.

    Args:
        parameters: Gives its learned parameters, float64, from a generator and a number of groups.
        function: The op: (x, *parameters, **settings, channel_dim).
        exact: The reference of the same signature.
        op: Name of the op in torch.ops.mmact that it runs.
        gradients: The reference's gradients: (grad, x, *parameters, **settings, channel_dim). None
            if autograd through ``exact`` is the reference.
        settings: The op's other arguments, by name.
        raw: Gives the arguments of torch.ops.mmact.OP after x, from (x, *parameters, **settings,
            channel_dim); None for functions that make them of their own.
        inputs: Gives x: (shape, parameters, channel_dim, dtype, device, seed).
        groups: Which numbers of groups it takes: of 'layer' (1), 'channel' (C) and 'group' (C / 3).
    """

    parameters: Callable[[torch.Generator, int], tuple[Tensor, ...]]
    function: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    op: str
    gradients: Callable[..., tuple[Tensor, ...]] | None = None
    settings: dict = field(default_factory=dict)
    raw: Callable[..., Arguments] | None = None
    inputs: Callable[..., Tensor] = _normal
    groups: tuple[str, ...] = ('layer', 'channel', 'group')

    def make(self, groups: int, dtype: torch.dtype, device: str = 'cpu') -> list[Tensor]:
        """Parameters for a number of groups."""
        return [p.to(device, dtype) for p in self.parameters(generator(groups), groups)]

    def call(self, x: Tensor, *parameters: Tensor, channel_dim: int) -> Tensor:
        """Runs the op."""
        return self.function(x, *parameters, channel_dim=channel_dim, **self._on(x.device))

    def op_arguments(self, x: Tensor, *parameters: Tensor, channel_dim: int) -> Arguments:
        """The arguments of the raw op."""
        dim = channel_dim % max(1, x.dim())
        return (x, *self.raw(x, *parameters, channel_dim=dim, **self._on(x.device)))

    def expected(
        self, grad: Tensor, x: Tensor, parameters: list[Tensor], channel_dim: int
    ) -> tuple[Tensor, ...]:
        """(y, gradient of x, gradients of the parameters) in float64 on the CPU."""
        grad, x, *parameters = (t.detach().cpu().double() for t in (grad, x, *parameters))
        settings = dict(self._on('cpu'), channel_dim=channel_dim)
        if self.gradients is None:
            return with_gradients(lambda *t: self.exact(*t, **settings), x, parameters, grad)
        y = self.exact(x, *parameters, **settings)
        return (y, *self.gradients(grad, x, *parameters, **settings))

    def exact_value(self, x: Tensor, parameters: list[Tensor], channel_dim: int) -> Tensor:
        """Y alone, in float64 on the CPU."""
        x, *parameters = (t.detach().cpu().double() for t in (x, *parameters))
        return self.exact(x, *parameters, **self._on('cpu'), channel_dim=channel_dim)

    def _on(self, device: torch.device | str) -> dict:
        return {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.settings.items()
        }


def _ignore_channels(function: Callable) -> Callable:
    return lambda *args, channel_dim=0, **settings: function(*args, **settings)


def _arelu(residual: bool) -> Case:
    return Case(
        lambda g, _: (_uniform(g, (1,), 0.1, 0.9), _uniform(g, (1,), -1, 2)),
        _ignore_channels(ops.arelu),
        _ignore_channels(reference.arelu),
        'arelu',
        _ignore_channels(reference.arelu_bwd),
        dict(residual=residual),
        lambda x, alpha, beta, channel_dim, residual: (alpha, beta, residual),
        groups=('layer',),
    )


def _piecewise_linear(count: int) -> Case:
    """With breakpoints that learn nothing: they are a setting, though one for each group."""

    def parameters(g, groups):
        return (
            _uniform(g, (groups, count + 1), -1, 1),
            _uniform(g, (groups, count + 1), -1, 1),
        )

    def breakpoints(slopes):
        # Exact in every dtype, so that half precisions do not move x to their other side.
        rows = torch.arange(slopes.size(0), device=slopes.device).unsqueeze(1)
        columns = torch.arange(count, device=slopes.device)
        return (columns * 0.75 - 1 + rows % 4 * 0.25).to(slopes.dtype)

    def function(x, slopes, offsets, channel_dim):
        return ops.piecewise_linear(x, breakpoints(slopes), slopes, offsets, channel_dim)

    def exact(x, slopes, offsets, channel_dim):
        return reference.piecewise_linear(x, breakpoints(slopes), slopes, offsets, channel_dim)

    def gradients(grad, x, slopes, offsets, channel_dim):
        return reference.piecewise_linear_bwd(grad, x, breakpoints(slopes), slopes, channel_dim)

    def raw(x, slopes, offsets, channel_dim):
        return breakpoints(slopes), slopes, offsets, channel_dim

    return Case(parameters, function, exact, 'piecewise_linear', gradients, raw=raw)


def _pwlu(num_intervals: int, inference: bool = False) -> Case:
    def parameters(g, groups):
        return pwlu_parameters(g, groups, num_intervals)

    def plain(function):
        return lambda *args, channel_dim, inference: function(*args, channel_dim)

    def raw(x, *parameters, channel_dim, inference):
        return *parameters, channel_dim, inference

    return Case(
        parameters,
        ops.pwlu,
        plain(reference.pwlu),
        'pwlu',
        plain(reference.pwlu_bwd),
        dict(inference=inference),
        raw,
        between_breakpoints,
    )


def _pau(m: int, n: int, version: str = 'B', noise: float = 0.0) -> Case:
    def parameters(g, groups):
        a = _uniform(g, (groups, m + 1), -1, 1)
        if version == 'N' or n > 7:
            # Even powers with positive factors only: no pole, and none of the cancellation that
            # would make a comparison of high orders one of rounding errors.
            powers = torch.arange(n + (version == 'C')) + (version != 'C')
            b = _uniform(g, (groups, len(powers)), 0.1, 0.5) * (powers % 2 == 0)
        else:
            b = _uniform(g, (groups, n + (version == 'C')), -0.5, 0.5)
        return a, b

    settings = dict(version=version, noise=noise)
    if noise:
        settings['seed'] = torch.tensor([SEED])

    def raw(x, a, b, channel_dim, version, noise, seed=None):
        return a, b, seed, noise, version, channel_dim

    return Case(parameters, ops.pau, reference.pau, 'pau', reference.pau_bwd, settings, raw)


def _group_rational(m: int, n: int) -> Case:
    """One numerator for all channels and a denominator for each group, as in KAT."""

    def parameters(g, groups):
        return _uniform(g, (1, m + 1), -1, 1), _uniform(g, (groups, n), -0.5, 0.5)

    def on_rows(function):
        return lambda x, a, b, channel_dim: function(
            x, a.expand(b.size(0), -1), b, channel_dim, version='A'
        )

    return Case(parameters, on_rows(ops.pau), on_rows(reference.pau), 'pau')


def _cpab(num_cells: int, extend: str = 'identity', factor: str = 'one') -> Case:
    """The elements' formula and its gradients; tables are compared in test_cpab.py."""
    domain = (-2.0, 2.5)

    def parameters(g, groups):
        # Slopes of the field up to 3 on average: T' is at most some hundreds.
        fastest = min(1.0, 6 / num_cells)
        return (_uniform(g, (groups, num_cells - 1), -fastest, fastest),)

    def function(x, theta, channel_dim):
        return ops.cpab(x, theta, domain, channel_dim, extend, factor, 0.25)

    def exact(x, theta, channel_dim):
        return apply_table(x, *_table(x, theta, domain, extend), channel_dim, factor, 0.25)

    def raw(x, theta, channel_dim):
        return (*_table(x, theta, domain, extend), channel_dim, factor, 0.25)

    return Case(parameters, function, exact, 'cpab', raw=raw)


def _acon() -> Case:
    def parameters(g, groups):
        return tuple(_uniform(g, (groups,), low, 2) for low in (-1, -1, -2))

    def raw(x, *parameters, channel_dim):
        return *parameters, channel_dim

    return Case(parameters, ops.acon, reference.acon, 'acon', reference.acon_bwd, raw=raw)


def _xielu() -> Case:
    def parameters(g, groups):
        return tuple(_uniform(g, (groups,), -2, 2) for _ in range(2))

    def raw(x, *parameters, channel_dim, beta):
        return *parameters, beta, channel_dim

    def ordered(function):
        """The reference has beta before the dimension, and so has its backward."""
        return lambda *args, channel_dim, beta: function(*args, beta, channel_dim)

    return Case(
        parameters,
        ordered(ops.xielu),
        ordered(reference.xielu),
        'xielu',
        ordered(reference.xielu_bwd),
        dict(beta=0.5),
        raw,
    )


CASES = {
    # A table of N + 2 segments just fits the registers of AVX-512, or just not: 14 and 15 intervals
    # in double, 30 and 31 in float.
    **{f'pwlu_{n}': _pwlu(n) for n in (1, 2, 14, 15, 30, 31, 64)},
    'pwlu': _pwlu(16),
    'pwlu_inference': _pwlu(16, inference=True),
    'arelu': _arelu(True),
    'elsa': _arelu(False),
    'piecewise_linear_1': _piecewise_linear(1),
    'piecewise_linear_2': _piecewise_linear(2),
    'piecewise_linear_6': _piecewise_linear(6),
    'pau': _pau(5, 4),
    'pau_a': _pau(5, 4, 'A'),
    'pau_c': _pau(5, 4, 'C'),
    'pau_n': _pau(5, 4, 'N'),
    'pau_3_2': _pau(3, 2),
    'pau_1_1': _pau(1, 1),
    'pau_4_7_a': _pau(4, 7, 'A'),
    'pau_8_8_c': _pau(8, 8, 'C'),
    'polynomial': _pau(3, 0),
    'rpau': _pau(5, 4, noise=0.1),
    'rpau_2_3_a': _pau(2, 3, 'A', noise=0.5),
    'group_rational': _group_rational(5, 4),
    'cpab': _cpab(3, 'affine'),
    'cpab_40': _cpab(40),
    'ditac_gelu': _cpab(10, factor='gelu'),
    'ditac_ge': _cpab(5, factor='gelu_below_0'),
    'ditac_leaky': _cpab(2, factor='leaky'),
    'acon': _acon(),
    'xielu': _xielu(),
}


# Largest error() allowed, by case: of results and of sums in float64, and the same in float32. They
# are twice the worst that the CPU's tests measured on any instruction set, rounded up. Errors are
# cancellation in polynomials (above all on the portable build, which rounds every product before it
# is added), slopes of 60 where N = 64, and sums of thousands of elements. RPAU's noise is worst in
# some of millions of elements (test_cuda.py).
_TOLERANCES = {
    'acon': (1e-15, 3e-14, 5e-7, 2e-5),
    'arelu': (8e-16, 7e-14, 3e-7, 3e-5),
    'cpab': (9e-16, 9e-15, 4e-7, 2e-6),
    'cpab_40': (1e-15, 2e-15, 4e-7, 9e-7),
    'ditac_ge': (8e-16, 7e-15, 3e-7, 7e-7),
    'ditac_gelu': (8e-16, 9e-15, 6e-7, 2e-6),
    'ditac_leaky': (8e-16, 6e-15, 5e-7, 2e-6),
    'elsa': (8e-16, 7e-14, 3e-7, 3e-5),
    'group_rational': (3e-15, 8e-14, 2e-6, 3e-5),
    'pau': (3e-14, 3e-14, 6e-6, 2e-5),
    'pau_1_1': (9e-16, 2e-13, 4e-7, 4e-5),
    'pau_3_2': (2e-15, 4e-14, 1e-6, 2e-5),
    'pau_4_7_a': (3e-15, 2e-14, 2e-6, 2e-5),
    'pau_8_8_c': (7e-15, 2e-14, 3e-6, 6e-6),
    'pau_a': (4e-15, 8e-14, 2e-6, 3e-5),
    'pau_c': (9e-14, 2e-13, 5e-5, 5e-5),
    'pau_n': (4e-15, 2e-14, 3e-6, 8e-6),
    'piecewise_linear_1': (8e-16, 6e-15, 3e-7, 3e-6),
    'piecewise_linear_2': (8e-16, 2e-14, 3e-7, 7e-6),
    'piecewise_linear_6': (8e-16, 5e-15, 3e-7, 3e-6),
    'polynomial': (9e-16, 2e-14, 3e-7, 6e-6),
    'pwlu': (3e-15, 2e-14, 3e-6, 6e-6),
    'pwlu_1': (8e-16, 2e-14, 3e-7, 2e-5),
    'pwlu_14': (5e-15, 2e-14, 4e-6, 8e-6),
    'pwlu_15': (6e-15, 2e-14, 3e-6, 6e-6),
    'pwlu_2': (8e-16, 2e-14, 3e-7, 8e-6),
    'pwlu_30': (9e-15, 1e-14, 5e-6, 6e-6),
    'pwlu_31': (1e-14, 9e-15, 7e-6, 1e-5),
    'pwlu_64': (2e-14, 2e-13, 2e-5, 2e-5),
    'pwlu_inference': (4e-15, 2e-14, 3e-6, 6e-6),
    'rpau': (9e-14, 9e-14, 6e-5, 7e-5),
    'rpau_2_3_a': (3e-15, 5e-15, 1e-6, 3e-6),
    'xielu': (8e-16, 2e-14, 3e-7, 2e-5),
}


def tolerance(name: str, dtype: torch.dtype) -> Tolerance:
    """Returns the error allowed for x of a dtype. Half precisions round float32's result."""
    double, double_sums, single, single_sums = _TOLERANCES[name]
    if dtype == torch.float64:
        return Tolerance(double, double_sums)
    rounding = {torch.float32: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    return Tolerance(max(single, rounding), single_sums)
