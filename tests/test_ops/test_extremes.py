# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels and eager forms at infinities, NaN and the largest numbers: equal, and the exact limits.

The exact values are worked out in fractions, the limits from leading terms: a third way, which
shares no code with the two.
"""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from mmact import ops
from mmact.ops import reference

from .cases import CASES
from .test_elementwise import number_of_groups, parameter_dtype
from .utils import DTYPES, random_tensor, run_python, with_gradients

INF, NAN = math.inf, math.nan
# Relative. Half precisions round float32's result; measured at most 4e-6 in float32 (sums of
# rpau_2_3_a, whose noise makes coefficients that nearly cancel) and 2e-14 in float64.
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def special(dtype):
    """Values, and the largest that the square of still is in range of."""
    most = torch.finfo(dtype).max
    return (INF, -INF, NAN, most, -most, most / 2, -most / 2, math.sqrt(most), -math.sqrt(most))


def same(actual, expected, limit):
    """Whether all elements are close, with NaN and infinities in the same places."""
    a, b = actual.detach().double(), expected.detach().double()
    equal = (a == b) | (a.isnan() & b.isnan())
    return bool((equal | ((a - b).abs() <= limit * (1 + b.abs()))).all())


def results_at(name, dtype, value, groups):
    """(y, gradients of x and of the parameters), with one special element of x among others."""
    case = CASES[name]
    parameters = case.make(groups, parameter_dtype(dtype))
    x = torch.full((2, 3, 7), 0.3, dtype=dtype)
    x[1, 1, 2] = value
    grad = random_tensor((2, 3, 7), dtype, seed=3)
    return with_gradients(lambda x, *p: case.call(x, *p, channel_dim=1), x, parameters, grad)


def all_results():
    """The results of all cases, dtypes and values, by these."""
    return {
        (name, dtype, i): results_at(
            name, dtype, value, number_of_groups(CASES[name].groups[i % len(CASES[name].groups)], 3)
        )
        for name in CASES
        for dtype in DTYPES
        for i, value in enumerate(special(dtype))
    }


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Those of the kernels, and of the eager forms, in a process that has no kernels."""
    path = tmp_path_factory.mktemp('extremes') / 'eager.pt'
    process = run_python(
        'import sys, warnings, torch; sys.modules["mmact._C"] = None\n'
        'warnings.simplefilter("ignore")\n'
        'from test_ops.test_extremes import all_results\n'
        f'torch.save(all_results(), {str(path)!r})'
    )
    assert process.returncode == 0, process.stderr
    # On torch 2.1 dtypes are no weights.
    return {'kernel': all_results(), 'eager': torch.load(path, weights_only=False)}


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', CASES)
def test_kernels_and_eager_forms_agree(name, dtype, results):
    for i, value in enumerate(special(dtype)):
        kernel, eager = (results[route][name, dtype, i] for route in ('kernel', 'eager'))
        for k, (a, b) in enumerate(zip(kernel, eager, strict=True)):
            assert same(a, b, CLOSE[dtype]), f'{value}: result {k} is {a}, of the eager form {b}'


# The exact values ---------------------------------------------------------------------------------


def fractions(tensor):
    return [Fraction(value) for value in tensor.detach().double().flatten().tolist()]


def line(slope, offset, v):
    """(value, slope) of a line at v."""
    if math.isinf(v):
        return (NAN if slope == 0 else v * (1 if slope > 0 else -1)), slope
    return slope * Fraction(v) + offset, slope


def exact_pwlu(v, left_bound, right_bound, left_slope, right_slope, points, *_):
    lb, rb, ls, rs = (fractions(t)[0] for t in (left_bound, right_bound, left_slope, right_slope))
    y = fractions(points)
    return line(ls, y[0] - ls * lb, v) if v < 0 else line(rs, y[-1] - rs * rb, v)


def exact_arelu(v, alpha, beta, residual):
    s = Fraction(beta.detach().double().sigmoid().item())
    return line(fractions(alpha)[0] if v < 0 else residual + s, Fraction(0), v)


def exact_piecewise_linear(v, breakpoints, slopes, offsets, *_):
    end = 0 if v < 0 else -1
    return line(fractions(slopes)[end], fractions(offsets)[end], v)


def exact_pau(v, numerator, denominator, seed, noise, version, *_):
    a, b = fractions(numerator), fractions(denominator)
    b = b if version == 'C' else [Fraction(0), *b]
    constant = Fraction(0.1) if version == 'C' else Fraction(1)
    # For x of this sign and large, Q is this polynomial.
    powers = [c if version != 'A' else abs(c) * (-1 if v < 0 and k % 2 else 1)
              for k, c in enumerate(b)]  # fmt: skip
    q = strip(powers)
    if version in 'BC':
        leading = q[-1] * (-1 if v < 0 and len(q) % 2 == 0 else 1)
        q = [-c for c in q] if leading < 0 else q
    q[0] += constant
    p = strip(a)
    slope = strip(combine(product(derivative(p), q), [-c for c in product(p, derivative(q))]))
    return ratio(p, q, v), ratio(slope, product(q, q), v)


def strip(polynomial):
    polynomial = list(polynomial)
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial


def derivative(polynomial):
    return [k * c for k, c in enumerate(polynomial)][1:] or [Fraction(0)]


def product(p, q):
    result = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for k, b in enumerate(q):
            result[i + k] += a * b
    return result


def combine(p, q):
    size = max(len(p), len(q))
    p, q = (t + [Fraction(0)] * (size - len(t)) for t in (p, q))
    return [a + b for a, b in zip(p, q, strict=True)]


def ratio(p, q, v):
    """p(v) / q(v), at infinity the limit."""
    if not math.isinf(v):
        top, bottom = (sum(c * Fraction(v) ** k for k, c in enumerate(t)) for t in (p, q))
        return top / bottom
    p, q = strip(p), strip(q)
    order = len(p) - len(q)
    if p == [0] or order < 0:
        return Fraction(0)
    limit = p[-1] / q[-1]
    return (
        limit if order == 0 else (INF if limit > 0 else -INF) * (-1 if v < 0 and order % 2 else 1)
    )


def exact_cpab(v, breakpoints, table, channel_dim, factor, negative_slope):
    row = table.detach()[0, 0 if v < 0 else -1]
    shift, gain = (Fraction(c) for c in row[1:3].tolist())
    if 'gelu' in factor and v < 0:
        return Fraction(0), Fraction(0)
    scale = Fraction(negative_slope) if factor == 'leaky' and v < 0 else Fraction(1)
    return line(scale * (1 + gain), scale * shift, v)


def exact_acon(v, p1, p2, beta, *_):
    first, second, switch = (fractions(t)[0] for t in (p1, p2, beta))
    open_gate = switch * (first - second) * (1 if v > 0 else -1) > 0
    return line(first if open_gate else second, Fraction(0), v)


def exact_xielu(v, raw_p, raw_n, beta, *_):
    alpha_p, excess = (Fraction(F.softplus(t.double()).item()) for t in (raw_p, raw_n))
    beta = Fraction(beta)
    if v < 0:
        return line(-excess, -(beta + excess), v)
    if math.isinf(v):
        return INF, INF
    return alpha_p * Fraction(v) ** 2 + beta * Fraction(v), 2 * alpha_p * Fraction(v) + beta


EXACT = {'pwlu': exact_pwlu, 'piecewise_linear': exact_piecewise_linear, 'pau': exact_pau}
EXACT |= {'arelu': exact_arelu, 'cpab': exact_cpab, 'acon': exact_acon, 'xielu': exact_xielu}
# Noise has no formula that is shorter than the reference.
WITH_EXACT = [n for n, c in CASES.items() if c.raw is not None and 'noise' not in n and n[0] != 'r']


def rounded(value, dtype):
    """A fraction, infinity or NaN as a number of a dtype."""
    try:
        number = float(value)
    except OverflowError:
        number = INF if value > 0 else -INF
    return torch.tensor(number, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', WITH_EXACT)
def test_results_are_the_exact_ones(name, dtype, results):
    case = CASES[name]
    for i, value in enumerate(special(dtype)):
        groups = number_of_groups(case.groups[i % len(case.groups)], 3)
        if math.isnan(value):
            continue
        parameters = case.make(groups, parameter_dtype(dtype))
        x = torch.full((1, 3, 1), value, dtype=dtype)
        grad = random_tensor((2, 3, 7), dtype, seed=3)[1, 1, 2].double()
        _, *raw = case.op_arguments(x, *parameters, channel_dim=1)
        raw = [t[1 % groups :][:1] if isinstance(t, torch.Tensor) else t for t in raw]
        y, slope = EXACT[case.op](x[0, 0, 0].item(), *raw)
        for route in ('kernel', 'eager'):
            found = (t[1, 1, 2] for t in results[route][name, dtype, i][:2])
            for got, want in zip(found, (y, slope * Fraction(grad.item())), strict=True):
                want = rounded(want, dtype)
                assert same(got, want, CLOSE[dtype]), f'{route}, {value}: {got} is not {want}'


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('with_attention', [False, True])
def test_dynamic_relu(dtype, with_attention):
    """Eq. 1 of Dynamic ReLU, whose coefficients belong to a sample."""
    coefficients = torch.tensor([[1.5, -0.5, 0.25, -1.0]] * 2, dtype=parameter_dtype(dtype))
    coefficients = coefficients.unsqueeze(2).expand(-1, -1, 3).contiguous()
    attention = torch.full((2, 1, 7), 0.5, dtype=coefficients.dtype) if with_attention else None
    tensors = [coefficients] if attention is None else [coefficients, attention]
    grad = random_tensor((2, 3, 7), dtype, seed=3)
    for value in special(dtype):
        x = torch.full((2, 3, 7), 0.3, dtype=dtype)
        x[1, 1, 2] = value
        kernel = with_gradients(ops.dyrelu, x, tensors, grad)
        eager = (
            reference.dyrelu(x, coefficients, attention),
            *reference.dyrelu_bwd(grad, x, coefficients, attention),
        )
        for i, (a, b) in enumerate(zip(kernel, eager, strict=False)):
            assert same(a, b, CLOSE[dtype]), f'{value}: result {i} is {a}, of the eager form {b}'
        if math.isnan(value):
            continue
        slope, offset = (1.5, 0.25) if value > 0 else (-0.5, -1.0)
        y, slope = line(Fraction(slope), Fraction(offset), x[1, 1, 2].item())
        scale = Fraction(0.5) if with_attention else Fraction(1)
        # The attention multiplies the largest value, which may be out of range before it does.
        want = (rounded(y, coefficients.dtype) * float(scale)).to(dtype)
        assert same(kernel[0][1, 1, 2], want, CLOSE[dtype]), value
        slope = grad[1, 1, 2].double() * float(slope * scale)
        assert same(kernel[1][1, 1, 2], slope, CLOSE[dtype]), value
