# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Piecewise-linear, rational and CPAB kernels against the float64 reference, in every setting.

What the functions are is in test_arelu.py, test_piecewise_linear.py, test_pau.py and
test_cpab.py; here the kernels are the same functions in all dtypes, layouts and sizes, on the CPU
and on CUDA.
"""

import itertools
import math

import pytest
import torch

from mmact.ops import has_kernel

from .cases import CASES
from .test_pwlu import CPU_LEVELS, cpu_supports
from .utils import (
    DTYPES,
    LAYOUTS,
    Tolerance,
    assert_near,
    needs_opcheck,
    random_tensor,
    run_python,
    same_bits,
    with_gradients,
)

NAN, INF = math.nan, math.inf
# By the dtype of x. Most of the error is cancellation in polynomials and in sums of thousands of
# elements. The worst measured sum is off by 3.1e-5: RPAU on the portable build, which rounds every
# product before it is added. Half precisions round the result, too.
TOLERANCES = {
    torch.float64: Tolerance(1e-13, 1e-13),
    torch.float32: Tolerance(1e-5, 5e-5),
    torch.float16: Tolerance(2**-11, 5e-5),
    torch.bfloat16: Tolerance(2**-8, 5e-5),
}
SOME_CASES = ('arelu', 'piecewise_linear_2', 'pau', 'pau_4_7_a', 'rpau', 'ditac_gelu')


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request):
    return request.param


def parameter_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def number_of_groups(kind, channels):
    return {'layer': 1, 'channel': channels, 'group': channels // 3}[kind]


def combinations(case, layout):
    """(channels, groups) to try: with and without whole vectors of channels."""
    if LAYOUTS[layout].channel_dim is None:
        yield 1, 1
        return
    for channels, kind in itertools.product((3, 36), case.groups):
        yield channels, number_of_groups(kind, channels)


def arguments(case, layout, channels, groups, dtype, device='cpu', seed=1):
    """(x, parameters, grad, channel_dim) with x and grad placed as the layout says."""
    kind = LAYOUTS[layout]
    shape = kind.shape(channels)
    x = (3 * random_tensor(shape, seed=seed)).to(device, dtype)
    grad = random_tensor(shape, dtype, device, seed=seed + 1)
    parameters = case.make(groups, parameter_dtype(dtype), device)
    return kind.place(x), parameters, kind.place(grad), kind.channel_dim or 0


def compare(case, x, parameters, grad, dim, what=''):
    """Fails unless the op and its gradients are the reference's, in dtype and strides too."""
    actual = with_gradients(lambda x, *p: case.call(x, *p, channel_dim=dim), x, parameters, grad)
    expected = case.expected(grad, x, parameters, dim)
    assert actual[0].dtype == actual[1].dtype == x.dtype
    assert actual[0].stride() == actual[1].stride() == torch.empty_like(x).stride(), what
    limits = TOLERANCES[x.dtype]
    largest = torch.finfo(x.dtype).max
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        if i < 2:  # beyond the range of float16 the result is infinite
            b = torch.where(b.abs() > largest, b.to(x.dtype).double(), b)
        assert_near(a, b, limits.elements if i < 2 else limits.sums, f'{what} result {i}')
    for gradient, parameter in zip(actual[2:], parameters, strict=True):
        assert gradient.dtype == parameter.dtype


def test_cpu_kernels_are_compiled():
    """The suite would otherwise compare the reference with itself."""
    for case in CASES.values():
        assert has_kernel(case.op, 'cpu')
        assert has_kernel(f'{case.op}_bwd', 'cpu')


@pytest.mark.cuda
def test_cuda_kernels_are_compiled():
    for case in CASES.values():
        assert has_kernel(case.op, 'cuda')
        assert has_kernel(f'{case.op}_bwd', 'cuda')


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', CASES)
def test_kernel_equals_the_reference(name, dtype, device):
    case = CASES[name]
    for layout in LAYOUTS:
        for channels, groups in combinations(case, layout):
            given = arguments(case, layout, channels, groups, dtype, device)
            compare(case, *given, what=f'{layout} C={channels} G={groups}')


# Runs around the widths of vectors (4 to 32), of tiles (2048) and of chunks (16384).
RUNS = (1, 7, 8, 15, 17, 33, 511, 513, 2047, 2049, 16383, 16385)


@pytest.mark.parametrize('name', SOME_CASES)
def test_sizes_of_a_channel(name, device):
    case = CASES[name]
    for run, dtype in itertools.product(RUNS, (torch.float32, torch.bfloat16)):
        for kind in case.groups[:2]:
            x = random_tensor((2, 3, run), dtype, device, seed=run)
            parameters = case.make(number_of_groups(kind, 3), torch.float32, device)
            compare(case, x, parameters, random_tensor(x.shape, dtype, device), 1, f'{run} {kind}')


@pytest.mark.parametrize('name', SOME_CASES)
@pytest.mark.parametrize(
    ('rows', 'channels'), [(1, 1), (1, 15), (129, 17), (300, 32), (4100, 20), (9, 260)]
)
def test_sizes_of_channel_last_tokens(name, rows, channels, device):
    case = CASES[name]
    x = random_tensor((rows, channels), torch.float32, device)
    groups = channels if 'channel' in case.groups else 1
    parameters = case.make(groups, torch.float32, device)
    compare(case, x, parameters, random_tensor(x.shape, torch.float32, device, seed=1), -1)


@pytest.mark.parametrize('name', CASES)
def test_empty(name, device):
    case = CASES[name]
    for shape in ((0, 6, 4, 4), (2, 6, 0)):
        x = torch.zeros(shape, device=device)
        parameters = case.make(6 if 'channel' in case.groups else 1, torch.float32, device)
        y, gx, *grads = with_gradients(
            lambda x, *p: case.call(x, *p, channel_dim=1), x, parameters, x
        )
        assert y.shape == gx.shape == shape
        assert all(
            torch.equal(g, torch.zeros_like(p)) for g, p in zip(grads, parameters, strict=True)
        )


@pytest.mark.parametrize('name', CASES)
def test_gradcheck(name, device):
    case = CASES[name]
    for layout in ('nchw', 'channels_last', 'every_second', 'scalar'):
        channels, groups = list(combinations(case, layout))[-1 if layout == 'scalar' else 0]
        x, parameters, _, dim = arguments(case, layout, channels, groups, torch.float64, device)
        inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
        torch.autograd.gradcheck(
            lambda x, *p, dim=dim: case.call(x, *p, channel_dim=dim), inputs, eps=1e-7, atol=1e-6
        )


def op_arguments(name, x, parameters, dim):
    """The arguments of the raw op (not of AReLU, which makes them of its own)."""
    case = CASES[name]
    if case.op == 'pau':
        settings = case._on(x.device)
        rest = (settings.get('seed'), settings['noise'], settings['version'])
        return (x, *parameters, *rest, dim)
    slopes, offsets = parameters
    breakpoints = torch.arange(slopes.size(1) - 1.0, device=x.device).expand(slopes.size(0), -1)
    return x, breakpoints.contiguous(), slopes, offsets, dim


@needs_opcheck
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second', 'expanded'])
@pytest.mark.parametrize('name', ['piecewise_linear_2', 'pau', 'rpau'])
def test_opcheck(name, layout, device):
    case = CASES[name]
    for dtype in (torch.float32, torch.bfloat16):
        x, parameters, grad, dim = arguments(case, layout, 6, 6, dtype, device)
        given = op_arguments(name, x, parameters, dim % x.dim())
        op = getattr(torch.ops.mmact, case.op).default
        torch.library.opcheck(op, tuple(_requiring_grad(given)))
        backward = getattr(torch.ops.mmact, f'{case.op}_bwd').default
        torch.library.opcheck(backward, (grad, *given))


def _requiring_grad(given):
    for t in given:
        floating = isinstance(t, torch.Tensor) and t.is_floating_point()
        yield t.detach().requires_grad_() if floating else t


@pytest.mark.parametrize('name', ['arelu', 'piecewise_linear_6', 'pau', 'rpau'])
def test_compile_without_graph_breaks(name, device):
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, 'channels_last', 6, 1, torch.float32, device)

    def run(x, *p):
        return case.call(x * 2, *p, channel_dim=dim) + 1

    compiled = torch.compile(run, fullgraph=True, backend='aot_eager')
    eager = with_gradients(run, x, parameters, grad)
    for a, b in zip(eager, with_gradients(compiled, x, parameters, grad), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_deterministic_on_any_number_of_threads(name, layout):
    case = CASES[name]
    groups = 37 if 'channel' in case.groups else 1
    place = LAYOUTS[layout].place
    x = place(random_tensor((8, 37, 50, 50), torch.float32))
    grad = place(random_tensor(x.shape, torch.float32, seed=1))
    parameters = case.make(groups, torch.float32)

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return with_gradients(
                lambda x, *p: case.call(x, *p, channel_dim=1), x, parameters, grad
            )
        finally:
            torch.set_num_threads(before)

    first = run(1)
    for threads in (1, 2, 3):
        assert all(map(same_bits, first, run(threads))), f'{threads} threads'


@pytest.mark.cuda
@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_deterministic_on_cuda(name, layout):
    case = CASES[name]
    groups = 37 if 'channel' in case.groups else 1
    x = LAYOUTS[layout].place(random_tensor((8, 37, 50, 50), torch.float32, 'cuda'))
    parameters = case.make(groups, torch.float32, 'cuda')
    runs = [
        with_gradients(lambda x, *p: case.call(x, *p, channel_dim=1), x, parameters, x)
        for _ in range(5)
    ]
    assert all(same_bits(a, b) for run in runs for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize('bad', [NAN, INF, -INF])
@pytest.mark.parametrize('name', CASES)
def test_non_finite_numbers_stay_in_their_elements(name, bad, device):
    case = CASES[name]
    for layout, dtype in itertools.product(('nchw', 'channels_last', 'every_second'), DTYPES):
        for channels, groups in combinations(case, layout):
            x, parameters, grad, dim = arguments(case, layout, channels, groups, dtype, device)
            where = torch.zeros(x.shape, dtype=torch.bool, device=device)
            where[1, :, 2, 1] = True
            spoilt = x.clone().masked_fill_(where, bad)
            y = case.call(spoilt, *parameters, channel_dim=dim)
            assert torch.equal(
                y[~where], case.call(x.clone(), *parameters, channel_dim=dim)[~where]
            )
            if math.isnan(bad):
                assert y[where].isnan().all()
            exact, _, *_ = case.expected(grad, spoilt, parameters, dim)
            assert torch.equal(y.cpu().isfinite(), exact.isfinite())
            # Its group's gradients show the NaN, so that a training loop can notice it.
            grads = with_gradients(
                lambda x, *p, dim=dim: case.call(x, *p, channel_dim=dim), spoilt, parameters, grad
            )
            if math.isnan(bad):
                assert not grads[2].isfinite().all()


@pytest.mark.parametrize('name', SOME_CASES)
def test_grad_in_another_layout_than_x(name, device):
    case = CASES[name]
    for layout, other in itertools.permutations(('nchw', 'channels_last', 'every_second'), 2):
        x, parameters, grad, dim = arguments(case, layout, 3, 1, torch.float32, device)
        compare(case, x, parameters, LAYOUTS[other].place(grad), dim)
    y = case.call(x.requires_grad_(), *parameters, channel_dim=dim)
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()  # a grad with strides of 0


@pytest.mark.parametrize('name', SOME_CASES)
def test_nothing_but_the_input_is_kept_for_backward(name):
    case = CASES[name]
    x, parameters, _, dim = arguments(case, 'nchw', 3, 1, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        case.call(x.requires_grad_(), *(p.requires_grad_() for p in parameters), channel_dim=dim)
    large = [t for t in kept if t.numel() > 150]  # x has 210; the table of DiTAC 105
    assert [t.data_ptr() for t in large] == [x.data_ptr()]


@pytest.mark.parametrize('name', ['piecewise_linear_2', 'pau'])
def test_second_derivatives(name):
    case = CASES[name]
    x, parameters, _, dim = arguments(case, 'nchw', 3, 1, torch.float64)
    leaf = x.clone().requires_grad_()
    (gx,) = torch.autograd.grad(
        case.call(leaf, *parameters, channel_dim=dim).square().sum(), leaf, create_graph=True
    )
    gx.sum().backward()
    assert leaf.grad.abs().max() > 0.1
    # The op that the backward without create_graph is made of has no derivative.
    settings = (None, 0.0, 'B', dim) if name == 'pau' else (dim,)
    tables = parameters[:2]
    if name != 'pau':
        tables = (x.new_zeros(1, 1), x.new_ones(1, 2), x.new_ones(1, 2))  # one breakpoint
    gx = getattr(torch.ops.mmact, f'{case.op}_bwd')(x.requires_grad_(), x, *tables, *settings)[0]
    with pytest.raises(RuntimeError, match='differentiable once'):
        gx.sum().backward()


def compare_a_bit_of_everything():
    """What every instruction set has to get right; run in processes of their own."""
    for name, layout, dtype in itertools.product(
        CASES, ('nchw', 'channels_last', 'every_second', 'tokens'), DTYPES
    ):
        case = CASES[name]
        for channels, groups in combinations(case, layout):
            given = arguments(case, layout, channels, groups, dtype)
            compare(case, *given, what=f'{name} {layout} C={channels} G={groups}')


@pytest.mark.parametrize('level', CPU_LEVELS)
def test_every_instruction_set(level):
    if not cpu_supports(level):
        pytest.skip(f'this CPU has no {CPU_LEVELS[level]}')
    result = run_python(
        'import torch; torch.set_num_threads(1)\n'
        'from test_ops.test_elementwise import compare_a_bit_of_everything\n'
        'from test_ops.test_pau import check_large_inputs\n'
        'print(torch.backends.cpu.get_cpu_capability())\n'
        'compare_a_bit_of_everything()\n'
        'check_large_inputs()',
        ATEN_CPU_CAPABILITY=level,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == CPU_LEVELS[level]


@pytest.mark.parametrize('name', SOME_CASES)
def test_eager_fallback_is_right(name):
    """The ops on a device without kernels, as they run in an install without the extension."""
    result = run_python(
        'import sys, torch, warnings; sys.modules["mmact._C"] = None\n'
        'warnings.simplefilter("ignore")\n'
        'from test_ops.test_elementwise import *\n'
        f'case = CASES[{name!r}]\n'
        'assert not has_kernel(case.op, "cpu")\n'
        'for layout in ("nchw", "channels_last", "every_second"):\n'
        '    for dtype in DTYPES:\n'
        '        compare(case, *arguments(case, layout, 6, 1, dtype))'
    )
    assert result.returncode == 0, result.stderr
