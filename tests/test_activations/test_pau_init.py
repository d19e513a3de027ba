# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Initial coefficients of PAU: the table, and fits of other functions, degrees and versions."""

from fractions import Fraction
from math import factorial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmact.activations.pau_init import (
    INITIAL_COEFFICIENTS,
    _fitted,
    fit_pau,
    initial_coefficients,
    named_function,
)
from mmact.ops.reference import pau

X = torch.linspace(-3, 3, 60001, dtype=torch.float64)


def error(fit, function, version='B', x=X):
    """PAU - function at x."""
    return pau(x, fit[0][None], fit[1][None], 0, version) - function(x)


def rms(fit, function, version='B', x=X):
    return float(error(fit, function, version, x).square().mean().sqrt())


def pade(series, m, n):
    """The classical Pade approximant [m/n] at 0 of a power series, in exact arithmetic."""
    rows = [
        [series[m + i - k] for k in range(1, n + 1)] + [-series[m + i]] for i in range(1, n + 1)
    ]
    for i in range(n):  # Gauss-Jordan
        pivot = next(r for r in range(i, n) if rows[r][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(n):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    b = [row[n] for row in rows]
    q = [Fraction(1), *b]
    a = [sum(q[k] * series[j - k] for k in range(min(j, n) + 1)) for j in range(m + 1)]
    return a, b


def sigmoid_series(order):
    """Coefficients of 1 / (1 + exp(-x))."""
    g = [Fraction((-1) ** k, factorial(k)) for k in range(order + 1)]
    g[0] += 1
    s = [Fraction(1, 2)]
    for k in range(1, order + 1):
        s.append(-sum(g[j] * s[k - j] for j in range(1, k + 1)) / 2)
    return s


def series_of(name):
    s = sigmoid_series(12)
    if name == 'sigmoid':
        return s
    if name == 'swish':
        return [Fraction(0), *s]
    tanh = [2**k * 2 * c for k, c in enumerate(s)]  # 2 sigmoid(2 x) - 1
    return [tanh[0] - 1, *tanh[1:]]


@pytest.mark.parametrize('name', ['sigmoid', 'tanh', 'swish'])
def test_smooth_columns_are_pade_approximants(name):
    numerator, denominator = pade(series_of(name), 5, 4)
    assert INITIAL_COEFFICIENTS[name][0] == tuple(float(c) for c in numerator)
    assert INITIAL_COEFFICIENTS[name][1] == tuple(float(c) for c in denominator)


@pytest.mark.parametrize(
    ('name', 'worst'),
    # Measured maxima on [-3, 3], rounded up.
    [
        ('sigmoid', 1e-6),
        ('tanh', 4.1e-4),
        ('swish', 1.4e-4),
        ('relu', 0.034),
        ('leaky_relu_0.01', 0.034),
        ('leaky_relu_0.20', 0.028),
        ('leaky_relu_0.25', 0.026),
        ('leaky_relu_0.30', 0.024),
        ('leaky_relu_-0.5', 0.024),
    ],
)
def test_table_approximates_its_functions(name, worst):
    fit = initial_coefficients(name)
    assert fit[0].dtype == fit[1].dtype == torch.float64
    assert error(fit, named_function(name)).abs().max() < worst
    assert fit[1].abs().max() > 0


@pytest.mark.parametrize('name', ['relu', 'leaky_relu_0.20', 'leaky_relu_-0.5'])
def test_table_minimises_the_squared_error(name):
    """No fit is better, and no coefficient can be changed to advantage."""
    table, function = initial_coefficients(name), named_function(name)
    best = rms(table, function, x=X[::10])
    assert rms(fit_pau(function), function) > rms(table, function) * (1 - 1e-5)
    for part, k in [(0, j) for j in range(6)] + [(1, k) for k in range(4)]:
        for change in (-1e-3, 1e-3):
            fit = [c.clone() for c in table]
            fit[part][k] += change * fit[part].abs().max()
            assert rms(fit, function, x=X[::10]) > best


def test_printed_relu_column_is_of_version_a():
    """Table 6's ReLU column, and what Eq. 2 makes of it and of LReLU(0.20)."""
    relu, leaky = named_function('relu'), named_function('leaky_relu_0.2')
    printed = [
        torch.tensor([0.02996348, 0.61690165, 2.37539147, 3.06608078, 1.52474449, 0.25281987]),
        torch.tensor([1.19160814, 4.40811795, 0.91111034, 0.34885983]),
    ]
    printed_leaky = [
        torch.tensor([0.02557776, 0.66182815, 1.58182975, 2.94478759, 0.95287794, 0.23319681]),
        torch.tensor([0.50962605, 4.18376890, 0.37832090, 0.32407314]),
    ]
    assert rms(printed, relu, 'A') < 0.0051 < 0.0085 < rms(printed, relu, 'B')
    assert error(printed_leaky, leaky, 'A').abs().max() < 0.026
    assert error(printed_leaky, leaky, 'B').abs().max() > 0.27  # measured 0.279
    fitted = fit_pau(relu, version='A')
    for ours, theirs in zip(fitted, printed, strict=True):
        # The grid of 1,001 points moves the minimum: measured 3.6e-3.
        assert torch.allclose(ours, theirs.double(), rtol=8e-3)


@pytest.mark.parametrize('version', ['A', 'B', 'C', 'N'])
@pytest.mark.parametrize(('name', 'worst'), [('tanh', 1e-5), ('relu', 0.006)])
def test_fits_in_every_version(version, name, worst):
    function = named_function(name)
    fit = fit_pau(function, version=version)
    assert [len(c) for c in fit] == [6, 5 if version == 'C' else 4]
    assert rms(fit, function, version) < worst  # of each function the worst version, rounded up


@pytest.mark.parametrize(('m', 'n'), [(1, 1), (2, 5), (9, 8)])
@pytest.mark.parametrize('version', ['A', 'B', 'C', 'N'])
def test_any_degrees(m, n, version):
    fit = fit_pau(F.gelu, m, n, version, num_points=201)
    assert [len(c) for c in fit] == [m + 1, n + (version == 'C')]
    powers = X[:, None] ** torch.arange(m + 1)
    polynomial = torch.linalg.lstsq(powers, F.gelu(X)[:, None]).solution
    assert rms(fit, F.gelu, version) < (powers @ polynomial - F.gelu(X)[:, None]).std() * 1.001
    if version == 'N':
        assert (1 + X[:, None] ** torch.arange(1, n + 1) @ fit[1]).min() > 0


def test_interval_is_respected():
    x = torch.linspace(2, 40, 4001, dtype=torch.float64)
    fit = fit_pau(torch.log, 3, 3, interval=(2, 40))
    assert rms(fit, torch.log, x=x) < 1e-3


def test_exact_functions_are_found():
    for function in (lambda x: x, lambda x: x / (1 + x * x), torch.zeros_like):
        assert error(fit_pau(function), function).abs().max() < 1e-6


def test_fits_are_repeatable_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    first, second = fit_pau(F.mish), fit_pau(F.mish)
    assert torch.equal(torch.get_rng_state(), state)
    # Equal to the bit as a rule; linear algebra may round by where its operands lie in memory.
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_fits_do_not_depend_on_the_default_device_and_dtype():
    expected = fit_pau(torch.tanh, 3, 2)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device('meta'):
            fit = fit_pau(torch.tanh, 3, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(fit, expected, strict=True):
        assert a.device.type == 'cpu'
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['gelu', 'elu'])
def test_initial_functions_stay_tame(name):
    """The fits of these two on [-3, 3] turn round outside it."""
    function, wide = named_function(name), torch.linspace(-10, 10, 2001, dtype=torch.float64)
    assert error(fit_pau(function), function, x=wide).abs().max() > 4
    fit = initial_coefficients(name)
    assert error(fit, function, x=wide).abs().max() < 3.1
    assert error(fit, function).abs().max() < 0.02


def test_names():
    for name, same in [
        ('leaky_relu', 'leaky_relu_0.01'),
        ('leaky_relu_0.2', 'leaky_relu_0.20'),
        ('silu', 'swish'),
        ('swish_1', 'swish'),
    ]:
        for a, b in zip(initial_coefficients(name), initial_coefficients(same), strict=True):
            assert torch.equal(a, b)
    fit = initial_coefficients('leaky_relu_0.1', 3, 2)
    assert rms(fit, lambda x: F.leaky_relu(x, 0.1)) < 0.05
    first = initial_coefficients('leaky_relu_0.1', 3, 2)
    first[0].zero_()  # results of the cache are copies
    assert torch.equal(initial_coefficients('leaky_relu_0.1', 3, 2)[0], fit[0])


@pytest.mark.parametrize('version', ['A', 'B'])
def test_a_function_and_its_dotted_name_have_one_fit(version):
    """Two fits differ by rounding, and so would the layers of a config and of its dump."""
    by_function = initial_coefficients(torch.sin, 4, 3, version)
    fits = _fitted.cache_info().misses
    by_name = initial_coefficients('torch.sin', 4, 3, version)
    assert _fitted.cache_info().misses == fits
    for a, b in zip(by_function, by_name, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('version', ['A', 'C', 'N'])
def test_pade_columns_hold_in_every_version(version):
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    same = pau(x, *(c[None] for c in initial_coefficients('tanh')), 0, 'B')
    other = pau(x, *(c[None] for c in initial_coefficients('tanh', version=version)), 0, version)
    assert torch.allclose(other, same, rtol=1e-12)


def test_callables():
    with torch.no_grad():
        module = nn.Sequential(nn.Softplus(), nn.Tanh())
    assert rms(initial_coefficients(module, 4, 4), module) < 1e-3
    assert rms(initial_coefficients(F.softplus), F.softplus) < 1e-4
    for slope in (0.0, 2.0):  # a closure is not taken for another of the same code
        fit = initial_coefficients(lambda x, s=slope: s * x, 1, 1)
        assert rms(fit, lambda x, s=slope: s * x) < 1e-9


@pytest.mark.parametrize(
    ('call', 'exception', 'text'),
    [
        (lambda: initial_coefficients('rleu'), ValueError, "'rleu'.*leaky_relu_<number>.*tanh"),
        (lambda: initial_coefficients('leaky_relu_x'), ValueError, 'known are'),
        (lambda: initial_coefficients('leaky_relu_nan'), ValueError, 'known are'),
        (lambda: initial_coefficients(3), TypeError, 'got int'),
        (lambda: initial_coefficients('relu', 0), ValueError, 'm must be a positive integer'),
        (lambda: initial_coefficients('relu', n=2.0), ValueError, 'n must be .* got 2.0'),
        (
            lambda: initial_coefficients('relu', version='D'),
            ValueError,
            "version must be 'A', 'B', 'C' or 'N', got 'D'",
        ),
        (lambda: fit_pau('relu'), TypeError, 'callable'),
        (lambda: fit_pau(torch.log), ValueError, r'function\(-3\) is nan'),
        (lambda: fit_pau(lambda x: x[:5]), ValueError, 'elementwise'),
        (lambda: fit_pau(lambda x: 1.0), TypeError, 'return a tensor'),
        (lambda: fit_pau(torch.tanh, interval=(3, -3)), ValueError, r'got \(3, -3\)'),
        (lambda: fit_pau(torch.tanh, interval=(0, float('inf'))), ValueError, 'finite'),
        (lambda: fit_pau(torch.tanh, num_points=20), ValueError, 'at least 44'),
    ],
)
def test_errors(call, exception, text):
    with pytest.raises(exception, match=text):
        call()
