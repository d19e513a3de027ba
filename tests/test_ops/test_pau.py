# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Eq. 2 and 3 of the PAU paper by independent routes, and the ends of the number range."""

import math
from fractions import Fraction

import pytest
import torch

from mmact import ops
from mmact.ops import reference

from .utils import DTYPES, assert_near, error, random_tensor, with_gradients

INF = math.inf
VERSIONS = ('A', 'B', 'C', 'N')


def row(*numbers, dtype=torch.float64, device='cpu'):
    return torch.tensor([numbers], dtype=dtype, device=device)


def exact_pau(x, a, b, version):
    """(P / Q, its derivative) in exact arithmetic; lists of numbers."""
    x, a, b = Fraction(x), [Fraction(c) for c in a], [Fraction(c) for c in b]
    powers = [x**k for k in range(max(len(a), len(b) + 1) + 1)]
    p = sum(c * powers[j] for j, c in enumerate(a))
    dp = sum(j * c * powers[j - 1] for j, c in enumerate(a) if j)
    first = 0 if version == 'C' else 1
    terms = [(k, c) for k, c in enumerate(b, first)]
    inner = sum(c * powers[k] for k, c in terms)
    d_inner = sum(k * c * powers[k - 1] for k, c in terms if k)
    sign = 1 if inner >= 0 else -1
    if version == 'A':
        q = 1 + sum(abs(c * powers[k]) for k, c in terms)
        dq = sum(k * c * powers[k - 1] * (1 if c * powers[k] >= 0 else -1) for k, c in terms if k)
    elif version == 'N':
        q, dq = 1 + inner, d_inner
    else:
        q, dq = (Fraction(1, 10) if version == 'C' else 1) + abs(inner), sign * d_inner
    return p / q, (dp * q - p * dq) / q**2


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize(('m', 'n'), [(5, 4), (1, 1), (2, 5), (7, 3)])
def test_values_in_exact_arithmetic(m, n, version):
    a = random_tensor((1, m + 1), seed=m)
    b = random_tensor((1, n + (version == 'C')), seed=n) * (0.02 if version == 'N' else 0.5)
    for x in (-1e6, -50.0, -2.5, -1.0, -0.3, 1e-3, 0.7, 1.0, 1.5, 9.0, 1e9):
        t = torch.tensor([x], dtype=torch.float64)
        y, derivative = (float(v) for v in exact_pau(x, a[0].tolist(), b[0].tolist(), version))
        for function in (ops.pau, reference.pau):
            actual, gx, *_ = with_gradients(
                lambda t, a, b, function=function: function(t, a, b, version=version),
                t,
                (a, b),
                torch.ones_like(t),
            )
            assert actual.item() == pytest.approx(y, rel=1e-10, abs=1e-12)
            assert gx.item() == pytest.approx(derivative, rel=1e-7, abs=1e-9)


def test_a_function_worked_out_by_hand():
    """(1 + 2 x) / (1 + |x - x^2|) at x = 3: P = 7, A = -6, Q = 7, F = 1."""
    x, a, b = row(3.0)[0], row(1.0, 2.0), row(1.0, -1.0)
    y, gx, ga, gb = with_gradients(ops.pau, x, (a, b), torch.ones_like(x))
    assert y.item() == pytest.approx(1, rel=1e-15)
    assert gx.item() == pytest.approx(2 / 7 - 5 * 7 / 49, rel=1e-15)  # P'/Q - sign(A) A' P/Q^2
    assert_near(ga, row(1 / 7, 3 / 7), 1e-16)
    assert_near(gb, row(3 / 7, 9 / 7), 1e-15)  # -x^k sign(A) P / Q^2


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('version', ['A', 'B', 'C'])
def test_denominators_that_start_at_zero_learn(version, dtype, device):
    """sign(0) = +1: with 0, they would have no gradient for ever."""
    x = torch.linspace(0.5, 2, 7, dtype=dtype, device=device)
    a, b = (row(*numbers, device=device).to(dtype) for numbers in ((0.0, 1.0, 0.0), (0.0,) * 3))
    for function in (ops.pau, reference.pau):
        _, _, _, gb = with_gradients(
            lambda x, a, b, f=function: f(x, a, b, version=version), x, (a, b), torch.ones_like(x)
        )
        assert (gb < 0).all()


def test_versions_are_different_functions_of_the_same_numbers():
    x = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    a, b = row(0.0, 1.0), row(-0.25, 0.125)
    inner = [0.5 + 0.5, -0.125 + 0.03125, -0.75 + 1.125]
    sizes = [0.5 + 0.5, 0.125 + 0.03125, 0.75 + 1.125]
    for version, q in (
        ('A', [1 + s for s in sizes]),
        ('B', [1 + abs(i) for i in inner]),
        ('N', [1 + i for i in inner]),
        ('C', [0.1 + abs(-0.25 + 0.125 * t) for t in x.tolist()]),
    ):
        assert_near(
            ops.pau(x, a, b, version=version),
            x / torch.tensor(q, dtype=torch.float64),
            1e-15,
            version,
        )


def in_dtype(value, dtype):
    """A fraction as the nearest number of a dtype, infinite if it is out of range."""
    try:
        return torch.tensor(float(value), dtype=torch.float64).to(dtype).item()
    except OverflowError:
        return INF if value > 0 else -INF


def check_large_inputs(device='cpu'):
    """The ratio and its gradients are finite wherever the exact ones are."""
    a = row(0.03, 0.6, 2.4, 3.0, 1.5, 0.25, device=device)
    b = row(1.2, -4.4, 0.9, 0.35, device=device)
    for dtype, sizes in (
        (torch.float16, (1e2, 6e4)),
        (torch.bfloat16, (1e4, 1e8, 1e30, 1e38)),
        (torch.float32, (9e3, 1.1e4, 1e6, 1e8, 1e20, 1e38)),
        (torch.float64, (1e30, 1e60, 1e100, 1e200, 1e307)),
    ):
        values = [s for size in sizes for s in (size, -size)] + [0.5]
        for version in VERSIONS:
            # Beside ordinary numbers in the same vector, and at the end of one.
            x = torch.tensor(values * 5, dtype=torch.float64).to(device, dtype)
            grad = torch.linspace(-1, 1, x.numel()).to(device, dtype)
            wide = dtype == torch.float64
            parameters = [p.abs() if version == 'N' else p for p in (a, b)]
            parameters = [p if wide else p.float() for p in parameters]
            y, gx, *_ = with_gradients(
                lambda x, a, b, v=version: ops.pau(x, a, b, version=v), x, parameters, grad
            )
            limit = {torch.float16: 1e-3, torch.bfloat16: 4e-3, torch.float32: 1e-6}.get(
                dtype, 1e-12
            )
            for i in range(len(values)):
                lists = [p[0].tolist() for p in parameters]
                exact, derivative = exact_pau(x[i].item(), *lists, version)
                expected = in_dtype(exact, dtype)
                assert y[i].item() == pytest.approx(expected, rel=limit), (dtype, version, i)
                # Where the derivative is a difference of nearly equal numbers its own size
                # says nothing about the error to expect.
                expected = in_dtype(derivative * Fraction(grad[i].item()), dtype)
                assert gx[i].item() == pytest.approx(expected, rel=2 * limit, abs=limit)
            # The coefficients' gradients are sums of powers of x, which must be in range, too.
            small = x.abs().double() < (1e100 if wide else 1e15)
            _, _, *grads = with_gradients(
                lambda x, a, b, v=version: ops.pau(x, a, b, version=v),
                x[small],
                parameters,
                grad[small],
            )
            _, *expected = reference.pau_bwd(
                grad[small].double(),
                x[small].double(),
                *(p.double() for p in parameters),
                version=version,
            )
            for actual, exact in zip(grads, expected, strict=True):
                relative = (actual.double() / exact - 1).abs().max()
                assert relative < 1e-4, (dtype, version, relative)


def test_large_inputs(device):
    check_large_inputs(device)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_infinite_inputs_give_the_limit(dtype, device):
    x = torch.tensor([INF, -INF], dtype=torch.float64).to(device, dtype)

    def at_infinity(above, below, **settings):
        a, b = (row(*numbers, device=device) for numbers in (above, below))
        return ops.pau(x, a, b, **settings).tolist()

    assert at_infinity((1.0, 2.0, 3.0), (0.5,)) == [INF, INF]  # like 6 x sign(x)
    assert at_infinity((1.0, 2.0, 3.0), (0.5,), version='N') == [INF, -INF]
    assert at_infinity((1.0, 2.0, 3.0), (0.5, -4.0)) == [0.75, 0.75]
    assert at_infinity((1.0, 2.0, 3.0), (0.5, 0.0, 2.0)) == [0, 0]
    assert at_infinity((1.0, 2.0, 0.0), (0.0, 4.0)) == [0, 0]
    assert at_infinity((1.0, 2.0, 0.0), (0.5,)) == [4, -4]  # not inf * 0


def test_more_sets_than_one():
    """Per channel and per group equal separate calls."""
    x = random_tensor((2, 6, 3, 5))
    a, b = random_tensor((3, 4), seed=1), random_tensor((3, 2), seed=2)
    y = ops.pau(x, a, b)
    for g in range(3):
        part = x[:, 2 * g : 2 * g + 2]
        assert torch.equal(y[:, 2 * g : 2 * g + 2], ops.pau(part, a[g : g + 1], b[g : g + 1]))


# Noise --------------------------------------------------------------------------------------------


def test_noise_is_uniform_and_independent():
    x = torch.zeros(60000)
    seed = torch.tensor([5])
    rows = torch.stack([reference.pau_noise(x, 1, 0, seed, r) for r in range(11)])
    assert rows.min() >= -1
    assert rows.max() < 1
    assert error(rows.mean(1), torch.zeros(11)) < 0.02  # three standard errors: 0.007
    assert error(rows.var(1), torch.full((11,), 1 / 3)) < 0.02
    quarters = torch.histc(rows, 8, -1, 1) / rows.numel()
    assert error(quarters, torch.full((8,), 1 / 8)) < 0.005
    correlation = torch.corrcoef(rows) - torch.eye(11)
    assert correlation.abs().max() < 0.02
    neighbours = torch.corrcoef(torch.stack([rows[0, :-1], rows[0, 1:]]))[0, 1]
    assert abs(neighbours) < 0.02
    other = reference.pau_noise(x, 1, 0, torch.tensor([6]), 0)
    assert abs(torch.corrcoef(torch.stack([rows[0], other]))[0, 1]) < 0.02


def test_noise_multiplies_every_coefficient():
    """Eq. 3 with the noise of the reference, one coefficient at a time."""
    x = torch.full((1000,), 2.0, dtype=torch.float64)
    seed, alpha = torch.tensor([2**40 + 17]), 0.25
    for j in range(4):
        a = torch.zeros(1, 4, dtype=torch.float64)
        a[0, j] = 1
        y = ops.pau(x, a, row(0.0), noise=alpha, seed=seed)
        factor = y / 2**j
        assert_near(factor, 1 + alpha * reference.pau_noise(x, 1, 0, seed, j), 1e-15)
        assert 0.75 <= factor.min() < 0.76
        assert 1.24 < factor.max() < 1.25
    y = ops.pau(x, row(1.0), row(1.0), noise=alpha, seed=seed)
    expected = (1 + alpha * reference.pau_noise(x, 1, 0, seed, 0)) / (
        1 + 2 * (1 + alpha * reference.pau_noise(x, 1, 0, seed, 2))
    )
    assert_near(y, expected, 1e-15)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_noise_multiplies_coefficients_of_large_inputs(dtype, device):
    """So large that powers overflow: the ratio is that of the leading coefficients."""
    x = torch.tensor([1, -1], dtype=dtype).repeat(50) * (1e200 if dtype == torch.float64 else 1e30)
    seed, alpha = torch.tensor([2**40 + 17]), 0.25
    a, b = (row(*n, dtype=dtype, device=device) for n in ((1.0, 2.0, 3.0), (0.5, -4.0)))
    y, _, ga, gb = with_gradients(
        lambda x, a, b: ops.pau(x, a, b, noise=alpha, seed=seed.to(device)),
        x.to(device),
        (a, b),
        torch.ones_like(x, device=device),
    )
    above, below = (1 + alpha * reference.pau_noise(x.double(), 1, 0, seed, r) for r in (2, 5))
    expected = 0.75 * above / below
    limit = 10 * torch.finfo(dtype).eps
    assert_near(y, expected, limit)
    # Of 3 f / (4 g) to 3 and -4.
    assert_near(ga / len(x), torch.tensor([[0, 0, expected.mean() / 3]]), limit)
    assert_near(gb / len(x), torch.tensor([[0, expected.mean() / 4]]), limit)


def test_noise_follows_the_generator_and_not_the_number_of_threads():
    x, a, b = random_tensor((4, 3, 100, 100), torch.float32), row(0.0, 1.0), row(0.5)

    def run(seed, threads=1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        try:
            return ops.pau(x, a, b, noise=0.1), ops.pau(x, a, b, noise=0.1)
        finally:
            torch.set_num_threads(before)

    (one, two), again, other = run(3), run(3, threads=2), run(4)
    assert torch.equal(one, again[0])
    assert torch.equal(two, again[1])
    assert not torch.equal(one, two)
    assert not torch.equal(one, other[0])


def test_noise_is_the_same_in_every_dtype():
    x = random_tensor((2, 3, 9, 9))
    x = x.to(torch.bfloat16).double()
    seed = torch.tensor([77])
    expected = ops.pau(x, row(0.0, 1.0), row(0.5), noise=0.5, seed=seed)
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
        y = ops.pau(x.to(dtype), row(0.0, 1.0), row(0.5), noise=0.5, seed=seed)
        assert_near(y, expected, limit)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('change', 'error_type', 'words'),
    [
        (dict(x=torch.zeros(3, dtype=torch.int64)), TypeError, 'floating-point tensor'),
        (dict(version='D'), ValueError, "version must be 'A', 'B', 'C' or 'N', got 'D'"),
        (dict(numerator=torch.zeros(6)), ValueError, r'numerator must have shape \(G, K\)'),
        (dict(numerator=torch.zeros(1, 33)), ValueError, 'K from 1 to 32'),
        (dict(denominator=torch.zeros(1, 0), version='C'), ValueError, 'denominator must have'),
        (dict(denominator=torch.zeros(2, 4)), ValueError, 'as many rows, got 1 and 2'),
        (dict(noise=1.5), ValueError, r'noise must be in \[0, 1\], got 1.5'),
        (dict(noise=0.1, seed=torch.zeros(2, dtype=torch.int64)), TypeError, 'seed must be'),
        (dict(noise=0.1, seed=torch.zeros(1)), TypeError, 'seed must be an int64'),
        (
            dict(numerator=torch.zeros(2, 6), denominator=torch.zeros(2, 4)),
            ValueError,
            r'x has 3 channels .* num_channels and channel_dim',
        ),
    ],
)
def test_errors_name_the_argument(change, error_type, words):
    given = dict(x=torch.zeros(2, 3), numerator=torch.zeros(1, 6), denominator=torch.zeros(1, 4))
    with pytest.raises(error_type, match=words):
        ops.pau(**{**given, **change})


def test_direct_calls_of_wrong_shape_raise():
    x, a, b = torch.zeros(2, 3), torch.zeros(1, 6), torch.zeros(1, 4)
    op = torch.ops.mmact.pau
    for given in (
        (x, a[0], b, None, 0.0, 'B', 0),
        (x, a, b.expand(2, -1), None, 0.0, 'B', 0),
        (x, a.expand(2, -1), b.expand(2, -1), None, 0.0, 'B', 1),
        (x, a.expand(3, -1), b.expand(3, -1), None, 0.0, 'B', 7),
        (x, a, b, None, 0.0, 'Q', 0),
        (x, a, b, None, 0.5, 'B', 0),
        (x, a.int(), b, None, 0.0, 'B', 0),
        (x, torch.zeros(1, 40), b, None, 0.0, 'B', 0),
    ):
        with pytest.raises(RuntimeError):
            op(*given)
    with pytest.raises(RuntimeError, match='grad must be like x'):
        torch.ops.mmact.pau_bwd(x[:1], x, a, b, None, 0.0, 'B', 0)


@pytest.mark.parametrize('version', ['A', 'B', 'N'])
@pytest.mark.parametrize('x', [3.0, -0.4, 1e7, -1e7])
def test_as_many_coefficients_as_there_may_be(version, x):
    """32 above and 32 below: 65 with b_0."""
    ones = [1.0] * 32
    t = torch.tensor([x], dtype=torch.float64)
    y, derivative = (float(v) for v in exact_pau(x, ones, ones, version))
    actual, gx, ga, gb = with_gradients(
        lambda t, a, b: ops.pau(t, a, b, version=version), t, (row(*ones), row(*ones)), t**0
    )
    assert actual.item() == pytest.approx(y, rel=1e-12)
    assert gx.item() == pytest.approx(derivative, rel=1e-9)
    expected = with_gradients(
        lambda t, a, b: reference.pau(t, a, b, version=version), t, (row(*ones), row(*ones)), t**0
    )[2:]
    for mine, other in zip((ga, gb), expected, strict=True):
        assert_near(mine / other, torch.ones_like(other), 1e-9)


@pytest.mark.parametrize(
    ('a', 'b', 'limits', 'slopes'),
    [
        # The leading term decides: here -3 x^3, of which lower powers must not make inf - inf.
        ((0.0, 1.0, 2.0, -3.0), (), (-INF, INF), (-INF, -INF)),
        ((1.0, -1.0, 2.0, 3.0, 0.0), (), (INF, -INF), (INF, INF)),
        ((0.0, 1.0, 2.0, -3.0), (1.0,), (-INF, INF), (-INF, -INF)),
        ((2.0, 3.0), (0.5,), (6.0, -6.0), (0.0, 0.0)),
        ((2.0, 3.0), (0.0, 0.0), (INF, -INF), (3.0, 3.0)),  # denominators that have not learned yet
        ((2.0, 3.0, 0.0), (0.5, 0.0), (6.0, -6.0), (0.0, 0.0)),
        ((1.0,), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
    ],
)
@pytest.mark.parametrize('dtype', DTYPES)
def test_limits(a, b, limits, slopes, dtype, device):
    x = torch.tensor([INF, -INF], dtype=dtype, device=device, requires_grad=True)
    a, b = row(*a, dtype=dtype, device=device), row(*b, dtype=dtype, device=device)
    y = ops.pau(x, a, b, version='B')
    assert y.tolist() == list(limits)
    y.sum().backward()
    assert x.grad.tolist() == list(slopes)


def test_the_largest_finite_numbers():
    """Factors on the way to a finite result do not overflow."""
    a, b = (0.02996348, 0.61690165, 2.37539147, 3.06608078, 1.52474449, 0.25281987), (
        1.19160814, 4.40811795, 0.91111034, 0.34885983,
    )  # fmt: skip
    largest = torch.finfo(torch.float64).max
    for x in (largest, -largest, 1e160):
        y, derivative = (float(v) for v in exact_pau(x, a, b, 'A'))
        t = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        actual = ops.pau(t, row(*a), row(*b), version='A')
        actual.backward()
        assert actual.item() == pytest.approx(y, rel=1e-12)
        assert t.grad.item() == pytest.approx(derivative, rel=1e-12)
