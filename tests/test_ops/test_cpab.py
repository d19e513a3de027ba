# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.ops.cpab against numerical integration, and as PyTorch sees it."""

import math

import pytest
import torch

from mmact import ops
from mmact.ops.cpab import FACTORS, MAX_SPEED, segment_table

from .ode import Field
from .utils import DTYPES, LAYOUTS, assert_near, needs_opcheck, random_tensor, with_gradients

NAN, INF = math.nan, math.inf
DOMAIN = (-0.5, 2.0)  # cells of 0.25 with 10 of them

# (velocities at the inner knots, domain). Slopes of the field up to 7.
FIELDS = {
    'zero': ([0.0] * 9, DOMAIN),
    'one_knot': ([0.6], (0.0, 1.0)),
    'one_knot_left': ([-0.6], (0.0, 1.0)),
    'rightward': ([0.2, 0.5, 0.7, 0.3, 0.4, 0.1, 0.6, 0.9, 0.5], DOMAIN),
    'leftward': ([-0.2, -0.5, -0.7, -0.3, -0.4, -0.1, -0.6, -0.9, -0.5], DOMAIN),
    'equal': ([0.4] * 9, DOMAIN),
    'nearly_equal': ([0.4, 0.4 + 1e-9, 0.4 - 1e-12, 0.4, -0.3, -0.3 - 1e-10, -0.3, 0, 0], DOMAIN),
    'signs': ([0.3, -0.2, 0.5, 0.5, -0.4, -0.1, 0.0, 0.3, 0.2], DOMAIN),
    'source_and_sink': ([-0.5, -0.2, 0.5, 0.4, -0.3], (-3.0, 3.0)),
    'slow': ([1e-6, -3e-7, 2e-9, 0.0, 1e-12], (1.0, 2.0)),
    'far_from_0': ([0.5, 0.2, -0.3], (100.0, 104.0)),
    'slow_knot': ([0.5, 1e-9, 0.5, -1e-13, -0.5], (0.0, 3.0)),
    'many_cells': ([0.5 * math.sin(k / 2) for k in range(24)], (-2.0, 2.0)),
}
every_field = pytest.mark.parametrize('name', FIELDS)


def field(name, dtype=torch.float64, device='cpu'):
    values, domain = FIELDS[name]
    return torch.tensor([values], dtype=dtype, device=device), domain


def inside(domain, count=101):
    """Points of the domain, its ends and all knots of 2, 5 or 10 cells among them."""
    return torch.linspace(*domain, count, dtype=torch.float64)


def between(theta, domain, extend='identity', share=(0.2, 0.5, 0.9)):
    """Points in every segment that is not narrower than 1e-4, the outer ones too."""
    edges = segment_table(theta, domain, extend)[0][0]
    edges = torch.cat([edges[:1] - 1, edges, edges[-1:] + 1])
    wide = edges.diff() > 1e-4
    return torch.cat([edges[:-1][wide] + part * edges.diff()[wide] for part in share])


# Against the differential equation ----------------------------------------------------------------


@every_field
def test_is_the_flow_of_the_field(name):
    theta, domain = field(name)
    x = torch.cat([inside(domain, 61), between(theta, domain, share=(0.4,))]).clamp(*domain)
    # Measured at most 6e-11, and 4e-14 with ten times as many steps.
    assert_near(ops.cpab(x, theta, domain), Field(theta[0], domain).flow(x), 1e-9)


@every_field
def test_derivative_is_the_ratio_of_velocities(name):
    """dT/dx = v(T(x)) / v(x), and exp(slope) where the field is 0 on both sides of x."""
    theta, domain = field(name)
    x = between(theta, domain)
    x = x[(x > domain[0]) & (x < domain[1])].requires_grad_()
    y = ops.cpab(x, theta, domain)
    v = Field(theta[0], domain)
    start = v(x.detach())
    moving = start.abs() > 1e-3
    expected = (v(y.detach()) / start)[moving]
    assert_near(torch.autograd.grad(y.sum(), x)[0][moving], expected, 1e-11)  # 3e-13


def test_derivative_where_nothing_moves():
    theta = torch.tensor([[0.3, -0.3]], dtype=torch.float64)
    x = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)  # v = 0, slope -0.6
    y = ops.cpab(x, theta, (0.0, 3.0))
    y.backward()
    assert_near(y, x, 1e-15)
    assert_near(x.grad, torch.tensor([math.exp(-0.6)]), 1e-7)


def test_one_cell_by_hand():
    """From 0.2 in the left cell of v(x) = x: exp(t) * 0.2; the knot 0.5 is reached at log(2.5)."""
    theta = torch.tensor([[0.5]], dtype=torch.float64)
    x = torch.tensor([0.1, 0.2], dtype=torch.float64)
    rest = 1 - math.log(2.5)
    expected = torch.tensor([0.1 * math.e, 1 - 0.5 * math.exp(-rest)], dtype=torch.float64)
    assert_near(ops.cpab(x, theta, (0.0, 1.0)), expected, 1e-15)


@pytest.mark.parametrize('extend', ['identity', 'affine'])
def test_outside_of_the_domain(extend, device):
    theta, domain = field('rightward', device=device)
    x = torch.tensor(
        [-1e30, -7, -0.5 - 1e-9, 2 + 1e-9, 3, 1e30], dtype=torch.float64, device=device
    )
    left, right = (0.2 / 0.25, -0.5 / 0.25) if extend == 'affine' else (0, 0)
    expected = torch.where(x < 0, -0.5 + math.exp(left) * (x + 0.5), 2 + math.exp(right) * (x - 2))
    y = ops.cpab(x, theta, domain, extend=extend)
    assert ((y - expected).abs() <= 1e-15 * expected.abs()).all()
    if extend == 'identity':
        assert torch.equal(y, x)


def test_zero_field_is_the_identity_to_the_bit():
    for extend in ('identity', 'affine'):
        for dtype in DTYPES:
            x = random_tensor((3, 500), dtype)
            assert torch.equal(ops.cpab(x, torch.zeros(1, 9), DOMAIN, extend=extend), x)


# Properties ---------------------------------------------------------------------------------------


@every_field
def test_the_negated_field_inverts(name):
    theta, domain = field(name)
    x = torch.cat([inside(domain), between(theta, domain)])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        xd = x.to(dtype)
        for extend in ('identity', 'affine'):
            y = ops.cpab(ops.cpab(xd, theta, domain, extend=extend), -theta, domain, extend=extend)
            # Rounding T(x) is undone as many times larger as T is steep the other way round.
            slope = with_gradients(
                lambda t, e=extend: ops.cpab(t, theta, domain, extend=e), x, [], torch.ones_like(x)
            )[1]
            allowed = tolerance * (1 + x.abs()) * (1 / slope).clamp(min=1)
            assert ((y.double() - xd.double()).abs() <= allowed).all()


@every_field
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('extend', ['identity', 'affine'])
def test_continuous_and_increasing_at_every_breakpoint(name, dtype, extend):
    theta, domain = field(name)
    edges = segment_table(theta, domain, extend, dtype)[0][0].to(dtype)
    x, below, above = edges, edges, edges
    near = []
    for _ in range(3):
        below = torch.nextafter(below, below.new_tensor(-INF))
        above = torch.nextafter(above, above.new_tensor(INF))
        near += [below, above]
    x = torch.cat([x, *near]).sort().values
    y = ops.cpab(x, theta, domain, extend=extend)
    eps = torch.finfo(dtype).eps * (1 + max(map(abs, domain)))
    # Seven points that are neighbours in the dtype; T' is below 40.
    assert (y.diff().abs() <= x.diff() * 40 + 4 * eps).all()
    assert (y.diff() >= -2 * eps).all()
    assert_near(y, ops.cpab(x.double(), theta, domain, extend=extend), 4 * eps)


@every_field
def test_float32_is_near_float64(name):
    theta, domain = field(name)
    x = torch.cat([inside(domain, 1001), between(theta, domain)]).float()
    expected = ops.cpab(x.double(), theta, domain)
    assert_near(ops.cpab(x, theta, domain), expected, 1e-6)  # 2e-7


# Gradients ----------------------------------------------------------------------------------------


@every_field
def test_gradcheck(name):
    theta, domain = field(name)
    extend = 'affine' if theta.size(1) < 9 else 'identity'
    x = between(theta, domain, extend, share=(0.3,))
    inputs = [x.requires_grad_(), theta.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, t: ops.cpab(x, t, domain, extend=extend), inputs, eps=1e-7, atol=1e-5, rtol=1e-4
    )


def test_gradcheck_of_groups():
    theta = 0.2 * random_tensor((3, 4))
    x = random_tensor((2, 6, 3), seed=1)
    inputs = [x.requires_grad_(), theta.requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, t: ops.cpab(x, t, (-1.0, 1.0)), inputs, eps=1e-7)


@every_field
def test_gradients_of_float32_are_near_float64(name):
    theta, domain = field(name)
    x = torch.cat([inside(domain, 1000), between(theta, domain, share=(0.3, 0.7))]).float()
    grad = random_tensor(x.shape, torch.float32, seed=2)
    results = []
    for dtype in (torch.float32, torch.float64):
        results.append(
            with_gradients(
                lambda x, t: ops.cpab(x, t, domain), x.to(dtype), [theta.to(dtype)], grad.to(dtype)
            )
        )
    # An element on a breakpoint has either derivative.
    edges = segment_table(theta.float(), domain)[0][0]
    apart = (x.double().unsqueeze(1) - edges).abs().min(1).values > 1e-5
    assert_near(results[0][1][apart], results[1][1][apart], 1e-4)
    assert_near(results[0][2], results[1][2], 1e-3)


def test_the_clamp_acts_and_passes_no_gradient():
    theta, domain = torch.tensor([[0.3, 1e9, 0.2]], dtype=torch.float64), (0.0, 4.0)
    clamped = theta.clamp(max=MAX_SPEED)
    x = inside(domain)
    assert torch.equal(ops.cpab(x, theta, domain), ops.cpab(x, clamped, domain))
    _, _, g = with_gradients(lambda x, t: ops.cpab(x, t, domain), x, [theta], torch.ones_like(x))
    assert g[0, 1] == 0
    assert g[0, 0] != 0


EXTREMES = {
    'alternating': [1e9, -1e9] * 5,
    'one_way': [1e9] * 9,
    'huge_and_tiny': [1e9, 1e-30, -1e-30, 1e9, 1e-300, 1e-45, -1e9, 1e-9, -1e-20],
    'tiny': [1e-300, -1e-200, 1e-60, 1e-59, 1e-45, -1e-38, 1e-30, 0.0, 5e-324],
    'source': [0.0, 0.0, 0.0, -1e9, 1e9, 0.0, 0.0],
    'steps': [0.01 if k % 3 else 50.0 for k in range(30)],
}


def moved(x, count):
    """x moved by so many of its neighbours, up or down."""
    towards = x.new_tensor(INF if count > 0 else -INF)
    for _ in range(abs(count)):
        x = torch.nextafter(x, towards)
    return x


@pytest.mark.parametrize('name', EXTREMES)
@pytest.mark.parametrize('domain', [(-1.0, 1.0), (0.0, 1e-3), (-1e4, 3e4)])
def test_extreme_velocities(name, domain):
    """Whatever theta is, T(x) is as exact as if x had been moved to a neighbour or two.

    So it is within the domain, and increases but for such neighbours; gradients are finite.
    """
    theta = torch.tensor([EXTREMES[name]], dtype=torch.float64)
    a, b = domain
    steps = 10.0 ** -torch.arange(0, 40, 0.5, dtype=torch.float64)
    x = torch.cat([a + (b - a) * steps, b - (b - a) * steps, inside(domain), -steps, steps])
    edges = segment_table(theta, domain)[0][0]
    x = torch.cat([x, edges, edges.float().double(), moved(edges.float(), 1).double()])
    x = x[(x >= a) & (x <= b)].sort().values
    for dtype in DTYPES:
        xd = x.to(dtype)
        xd = xd[(xd.double() >= a) & (xd.double() <= b)]
        y, gx, g_theta = with_gradients(
            lambda x, t: ops.cpab(x, t, domain), xd, [theta], torch.ones_like(xd)
        )
        assert y.isfinite().all()
        assert g_theta.isfinite().all()
        assert dtype == torch.float16 or gx.isfinite().all()
        if dtype in (torch.float64, torch.float32):
            slack = 100 * torch.finfo(dtype).eps * max(abs(a), abs(b))
            low, high = (
                ops.cpab(moved(xd, by).clamp(a, b).double(), theta, domain) for by in (-4, 4)
            )
            assert (y >= low - slack).all()
            assert (y <= high + slack).all()
            assert (y >= a - slack).all()
            assert (y <= b + slack).all()


# The kernels' table ----------------------------------------------------------------------------


def tables(theta, domain, extend, dtype):
    """(breakpoints, table, gradient of theta) of the kernel, and of the PyTorch operations."""
    for make in (
        lambda t: torch.ops.mmact.cpab_table(
            t, *domain, extend == 'affine', dtype != torch.float64
        ),
        lambda t: segment_table(t, domain, extend, dtype),
    ):
        leaf = theta.clone().requires_grad_()
        breakpoints, table = make(leaf)
        grad = random_tensor(table.shape, device=theta.device, seed=5)
        yield breakpoints, table.detach(), torch.autograd.grad(table, leaf, grad)[0]


# Where velocities are tiny, rounding a breakpoint changes the constants of its segments much, and
# the transformation by nothing.
@pytest.mark.parametrize('name', [name for name in FIELDS if name != 'slow'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('extend', ['identity', 'affine'])
def test_table_of_the_kernel(name, dtype, extend, device):
    theta, domain = field(name, device=device)
    for mine, other in zip(*tables(theta, domain, extend, dtype), strict=True):
        scale = other.abs().clamp(min=1)
        assert_near(mine / scale, other / scale, 1e-9)  # 7e-11, where a velocity is 1e-13


def test_table_of_many_groups(device):
    theta = 0.5 * random_tensor((50, 6), device=device, seed=3)
    for mine, other in zip(*tables(theta, (-1.0, 1.5), 'affine', torch.float32), strict=True):
        assert_near(mine, other, 1e-11)


# Inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('extend', ['identity', 'affine'])
def test_nan_and_infinity(dtype, extend, device):
    theta, domain = field('signs', device=device)
    x = torch.tensor([NAN, INF, -INF, 0.3, NAN], dtype=dtype, device=device)
    y, gx, _ = with_gradients(
        lambda x, t: ops.cpab(x, t, domain, extend=extend), x, [theta], torch.ones_like(x)
    )
    assert y[[0, 4]].isnan().all()
    assert y[1] == INF
    assert y[2] == -INF
    assert y[3].isfinite()
    assert gx[3].isfinite()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('factor', ['gelu', 'gelu_below_0', 'leaky'])
def test_infinity_with_a_factor(dtype, factor, device):
    """The limits of y and of its slope, as GELU and LeakyReLU have them."""
    theta, domain = field('signs', device=device)
    x = torch.tensor([INF, -INF], dtype=dtype, device=device)
    y, gx, _ = with_gradients(
        lambda x, t: ops.cpab(x, t, domain, factor=factor, negative_slope=0.25),
        x,
        [theta],
        torch.ones_like(x),
    )
    low, slope = (-INF, 0.25) if factor == 'leaky' else (0, 0)
    assert y.tolist() == [INF, low]
    assert gx.tolist() == [1, slope]


def test_nan_velocities_give_nan():
    x = torch.linspace(-1, 3, 50)
    y = ops.cpab(x, torch.tensor([[0.1, NAN, 0.2]]), DOMAIN)
    assert y[(x > 0.2) & (x < 1.3)].isnan().all()
    assert torch.equal(y[x < -0.5], x[x < -0.5])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    theta, domain = field('signs', torch.float32)
    x = random_tensor((4, 200), dtype)
    grad = random_tensor((4, 200), dtype, seed=1)
    y, gx, g = with_gradients(lambda x, t: ops.cpab(x, t, domain), x, [theta], grad)
    expected = with_gradients(lambda x, t: ops.cpab(x, t, domain), x.float(), [theta], grad.float())
    assert y.dtype == gx.dtype == dtype
    assert g.dtype == torch.float32
    assert torch.equal(y, expected[0].to(dtype))
    assert torch.equal(gx, expected[1].to(dtype))
    assert torch.equal(g, expected[2])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_and_groups(layout):
    """Each channel is what its own theta makes of it, in the memory format of the input."""
    kind = LAYOUTS[layout]
    x = kind.place(random_tensor(kind.shape(6)))
    dim = kind.channel_dim
    for groups in (1,) if dim is None else (1, 2, 6):
        theta = 0.3 * random_tensor((groups, 4), seed=1)
        leaf = x.detach().requires_grad_()
        y = ops.cpab(leaf, theta, (-1.0, 1.5), dim or 0)
        assert y.stride() == torch.empty_like(x).stride()
        (gx,) = torch.autograd.grad(y.square().sum(), leaf)
        assert gx.stride() == torch.empty_like(x).stride()
        for channel in range(1 if dim is None else 6):
            pick = (lambda t: t) if dim is None else (lambda t, c=channel: t.select(dim, c))
            row = channel // (6 // groups)
            one = pick(x).clone().requires_grad_()
            z = ops.cpab(one, theta[row : row + 1], (-1.0, 1.5))
            assert_near(pick(y), z, 1e-15)
            assert_near(pick(gx), torch.autograd.grad(z.square().sum(), one)[0], 1e-14)


def test_empty():
    theta = torch.zeros(4, 3, requires_grad=True)
    y = ops.cpab(torch.zeros(0, 4, 2, requires_grad=True), theta, DOMAIN)
    y.sum().backward()
    assert y.shape == (0, 4, 2)
    assert torch.equal(theta.grad, torch.zeros(4, 3))


# As PyTorch sees it -------------------------------------------------------------------------------


@needs_opcheck
@pytest.mark.parametrize('layout', ['channels_last', 'tokens'])
def test_opcheck(layout):
    kind = LAYOUTS[layout]
    x = kind.place(random_tensor(kind.shape(3), torch.float32))
    dim = kind.channel_dim % x.dim()
    table = segment_table(0.3 * random_tensor((3, 4)), DOMAIN, 'affine', torch.float32)
    for settings in ((dim, 'one', 0.0), (dim, 'gelu', 0.0)):
        given = (x.detach().requires_grad_(), *table, *settings)
        torch.library.opcheck(torch.ops.mmact.cpab.default, given)
        torch.library.opcheck(torch.ops.mmact.cpab_bwd.default, (x, x, *table, *settings))


@needs_opcheck
def test_opcheck_of_the_table():
    given = ((0.3 * random_tensor((3, 4), torch.float32)).requires_grad_(), -0.5, 2.0, True, True)
    torch.library.opcheck(torch.ops.mmact.cpab_table.default, given)
    given = (random_tensor((3, 11, 5)), given[0].detach(), *given[1:])
    torch.library.opcheck(torch.ops.mmact.cpab_table_bwd.default, given)


def test_compiles_as_one_graph():
    torch._dynamo.reset()

    def function(x, theta):
        return ops.cpab(x, theta, DOMAIN, extend='affine').square()

    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    x, theta = random_tensor((2, 3, 50), torch.float32), 0.3 * random_tensor((3, 9), seed=1)
    grad = random_tensor(x.shape, torch.float32, seed=2)
    actual = with_gradients(compiled, x, [theta], grad)
    for mine, other in zip(actual, with_gradients(function, x, [theta], grad), strict=True):
        assert_near(mine, other, 1e-6)


@pytest.mark.parametrize('factor', FACTORS)
@pytest.mark.parametrize('velocities', [[0.3] * 4, [0.2, -0.4, 0.1, 0.5]])
def test_second_derivatives(factor, velocities):
    """Also where neighbouring velocities are equal, so that a field has slope 0."""
    x = torch.linspace(-1.3, 2.4, 9, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([velocities], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x, theta: ops.cpab(x, theta, DOMAIN, factor=factor, negative_slope=0.2), (x, theta)
    )


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(x=torch.zeros(3, dtype=torch.long)), TypeError, 'floating-point'),
        (dict(theta=torch.zeros(9)), ValueError, r'theta must have shape \(G, N - 1\)'),
        (dict(theta=torch.zeros(1, 0)), ValueError, r'N >= 2 cells, got \(1, 0\)'),
        (dict(theta=torch.zeros(4, 9)), ValueError, 'x has 3 channels .* 4 sets'),
        (dict(theta=torch.zeros(3, 9), channel_dim=2), ValueError, 'channel_dim=2 is not'),
        (dict(domain=(1, 1)), ValueError, r'a < b, got \(1, 1\)'),
        (dict(domain=(0, INF)), ValueError, 'two finite numbers'),
        (dict(domain=3), ValueError, 'two finite numbers'),
        (dict(extend='gelu'), ValueError, "'identity' or 'affine', got 'gelu'"),
    ],
)
def test_errors_name_the_argument(change, error, words):
    given = dict(x=torch.zeros(2, 3), theta=torch.zeros(1, 9), domain=DOMAIN)
    with pytest.raises(error, match=words):
        ops.cpab(**{**given, **change})
