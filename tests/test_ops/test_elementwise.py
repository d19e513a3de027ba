# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of all elementwise ops against the float64 reference, in every setting.

What the functions are is in test_pwlu.py, test_arelu.py, test_pau.py and test_cpab.py; here the
kernels are the same functions in all dtypes, layouts and sizes, on the CPU and on CUDA.
"""

import itertools
import math

import pytest
import torch
from marks import slow_unless

from mmact.ops import has_kernel

from .cases import CASES, tolerance
from .utils import (
    CPU_LEVELS,
    DTYPES,
    GPU,
    LAYOUTS,
    assert_near,
    error,
    random_tensor,
    run_python,
    same_bits,
    skip_level,
    with_gradients,
)

NAN, INF = math.nan, math.inf
# One for each formula, and for each way in which an engine runs one.
SOME_CASES = (
    'pwlu',
    'pwlu_64',
    'arelu',
    'piecewise_linear_2',
    'pau',
    'pau_4_7_a',
    'rpau',
    'ditac_gelu',
    'acon',
    'xielu',
)
# Arithmetic in one type, and conversions to another and back.
TWO_DTYPES = (torch.float64, torch.bfloat16)


def parameter_dtype(dtype):
    """Returns the dtype of parameters under mixed precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def number_of_groups(kind, channels):
    return {'layer': 1, 'channel': channels, 'group': channels // 3}[kind]


def combinations(case, layout, all_channels=(3, 36)):
    """(channels, groups) to try: with and without whole vectors of channels."""
    if LAYOUTS[layout].channel_dim is None:
        yield 1, 1
        return
    for channels, kind in itertools.product(all_channels, case.groups):
        yield channels, number_of_groups(kind, channels)


def arguments(case, layout, channels, groups, dtype, device='cpu', seed=1):
    """(x, parameters, grad, channel_dim) with x and grad placed as the layout says."""
    kind = LAYOUTS[layout]
    x, parameters, grad = contiguous_arguments(
        case, kind.shape(channels), kind.channel_dim or 0, groups, dtype, device, seed
    )
    return kind.place(x), parameters, kind.place(grad), kind.channel_dim or 0


def contiguous_arguments(case, shape, channel_dim, groups, dtype, device='cpu', seed=1):
    """(x, parameters, grad)."""
    parameters = case.make(groups, parameter_dtype(dtype), device)
    x = case.inputs(shape, parameters, channel_dim, dtype, device, seed)
    return x, parameters, random_tensor(shape, dtype, device, seed=seed + 1)


def run(case, x, parameters, grad, dim):
    """(y, gradient of x, gradients of parameters) of the op."""
    return with_gradients(lambda x, *p: case.call(x, *p, channel_dim=dim), x, parameters, grad)


def compare(name, x, parameters, grad, dim, what='', rounded=0.0):
    """Fails unless the op and its gradients are the reference's, in dtype and strides too.

    ``rounded``: what the rounding of the parameters' gradients may add to their error.
    """
    case = CASES[name]
    actual = run(case, x, parameters, grad, dim)
    expected = case.expected(grad, x, parameters, dim)
    assert actual[0].dtype == actual[1].dtype == x.dtype
    assert actual[0].stride() == actual[1].stride() == torch.empty_like(x).stride(), what
    limits = tolerance(name, x.dtype)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        # Beyond the range of float16 a result is infinite.
        b = torch.where(b.abs() > torch.finfo(a.dtype).max, b.to(a.dtype).double(), b)
        limit = limits.elements if i < 2 else limits.sums + rounded
        assert_near(a, b, limit, f'{name} {x.dtype} {what} result {i}')
    for gradient, parameter in zip(actual[2:], parameters, strict=True):
        assert gradient.dtype == parameter.dtype


def test_cpu_kernels_are_compiled():
    """The suite would otherwise compare the reference with itself."""
    for case in CASES.values():
        assert has_kernel(case.op, 'cpu')
        assert has_kernel(f'{case.op}_bwd', 'cpu')
        assert not has_kernel(case.op, 'mps')


@pytest.mark.cuda
def test_cuda_kernels_are_compiled():
    for case in CASES.values():
        assert has_kernel(case.op, GPU)
        assert has_kernel(f'{case.op}_bwd', GPU)


@pytest.mark.parametrize(
    ('name', 'dtype'),
    slow_unless(
        lambda pair: pair[0] in SOME_CASES or pair[1] in TWO_DTYPES,
        itertools.product(CASES, DTYPES),
    ),
    ids=str,
)
def test_kernel_equals_the_reference(name, dtype, device):
    case = CASES[name]
    for layout in LAYOUTS:
        for channels, groups in combinations(case, layout):
            given = arguments(case, layout, channels, groups, dtype, device)
            compare(name, *given, what=f'{layout} C={channels} G={groups}')


# Runs around everything that cuts the work: vectors of 2 to 16 elements, tiles of 2048 (of which a
# quarter makes a long run) and chunks of 16384 on a CPU; vectors of 2 to 8, blocks of 64 to 256
# threads and chunks of 4096 to 65536 on a GPU.
SHORT_RUNS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33)
LONG_RUNS = (128, 255, 257, 511, 512, 513, 1025, 2047, 2048, 2049, 4104, 8193, 16384, 16385, 65544)


@pytest.mark.parametrize('dtype', slow_unless(TWO_DTYPES.__contains__, DTYPES), ids=str)
@pytest.mark.parametrize('name', SOME_CASES)
def test_sizes_of_a_channel(name, dtype, device):
    case = CASES[name]
    for length in SHORT_RUNS + LONG_RUNS:
        kind = case.groups[length % len(case.groups)]
        shape = (11 if length in SHORT_RUNS else 2, 3, length)
        groups = number_of_groups(kind, 3)
        given = contiguous_arguments(case, shape, 1, groups, dtype, device, seed=length)
        compare(name, *given, 1, f'{length} {kind}')


# Around the vectors of 2 to 16 channels, the groups of 256, the tiles of 128 rows or more, the
# chunks of 128, and what 32 of them hold on a CPU; the groups of 32 channels and the chunks of 32
# to 2048 rows on a GPU.
TOKENS = [(1, 1), (1, 2), (1, 15), (127, 2), (129, 17), (300, 32), (7, 33), (5, 255), (9, 260)]
TOKENS += [(130, 264), (1030, 3), (4100, 20), (5000, 2), (2, 2049)]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', SOME_CASES)
def test_sizes_of_channel_last_tokens(name, dtype, device):
    case = CASES[name]
    for rows, channels in TOKENS:
        groups = channels if 'channel' in case.groups else 1
        given = contiguous_arguments(case, (rows, channels), 1, groups, dtype, device)
        compare(name, *given, -1, f'{rows} x {channels}')


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', SOME_CASES)
def test_mixed_dtypes(name, dtype, device):
    """Every pair of dtypes; gradients come in the dtype of what they belong to."""
    case = CASES[name]
    for other in DTYPES:
        parameters = case.make(6, other, device)
        x = case.inputs((2, 6, 9), parameters, 1, dtype, device, 1)
        grad = random_tensor(x.shape, dtype, device, seed=2)
        compare(name, x, parameters, grad, 1, f'{other}', torch.finfo(other).eps / 2)


@pytest.mark.parametrize('name', SOME_CASES)
def test_parameters_may_be_of_different_dtypes_and_strided(name, device):
    case = CASES[name]
    parameters = case.make(6, torch.float32, device)
    parameters[0], parameters[-1] = parameters[0].double(), parameters[-1].bfloat16()
    parameters = [torch.stack([p, p + 100], -1)[..., 0] for p in parameters]
    assert parameters[-1].numel() == 1 or not parameters[-1].is_contiguous()
    x = case.inputs((2, 6, 9), parameters, 1, torch.float32, device, 1)
    grad = random_tensor(x.shape, torch.float32, device, seed=2)
    compare(name, x, parameters, grad, 1, rounded=2**-8)


@pytest.mark.parametrize('name', SOME_CASES)
def test_memory_that_does_not_start_on_16_bytes(name, device):
    case = CASES[name]

    def shifted(t):
        view = torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
        assert view.data_ptr() % 16
        return view

    for dtype in DTYPES:
        x, parameters, grad = contiguous_arguments(case, (2, 3, 64), 1, 1, dtype, device)
        compare(name, shifted(x), parameters, grad, 1)
        compare(name, x, parameters, shifted(grad), 1)


@pytest.mark.parametrize('name', CASES)
def test_empty(name, device):
    """No elements: a result of the same shape, and gradients of zero."""
    case = CASES[name]
    for shape in ((0, 6, 4, 4), (2, 6, 0)):
        x = torch.zeros(shape, device=device)
        parameters = case.make(6 if 'channel' in case.groups else 1, torch.float32, device)
        y, gx, *grads = run(case, x, parameters, x, 1)
        assert y.shape == gx.shape == shape
        for g, p in zip(grads, parameters, strict=True):
            assert torch.equal(g, torch.zeros_like(p))


@pytest.mark.parametrize('name', CASES)
def test_gradcheck(name, device):
    """Finite differences of the kernel's own values, for x and all parameters."""
    case = CASES[name]
    for layout in ('nchw', 'channels_last', 'tokens', 'every_second', 'scalar'):
        channels, groups = list(combinations(case, layout))[-1 if layout == 'scalar' else 0]
        x, parameters, _, dim = arguments(case, layout, channels, groups, torch.float64, device)
        inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
        torch.autograd.gradcheck(
            lambda x, *p, dim=dim: case.call(x, *p, channel_dim=dim), inputs, eps=1e-7, atol=1e-6
        )


@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_deterministic_on_any_number_of_threads(name, layout):
    """The same bits, gradients of parameters included."""
    case = CASES[name]
    groups = 37 if 'channel' in case.groups else 1
    shape, dim = ((8, 2500, 37), 2) if layout == 'tokens' else ((8, 37, 50, 50), 1)
    place = LAYOUTS[layout].place
    x = place(random_tensor(shape, torch.float32))
    grad = place(random_tensor(shape, torch.float32, seed=1))
    parameters = case.make(groups, torch.float32)

    def on(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run(case, x, parameters, grad, dim)
        finally:
            torch.set_num_threads(before)

    first = on(1)
    for threads in (1, 2, 3):
        assert all(map(same_bits, first, on(threads))), f'{threads} threads'


# Numbers that are not finite ----------------------------------------------------------------------


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
            exact = case.exact_value(spoilt, parameters, dim)
            assert torch.equal(y.cpu().isfinite(), exact.isfinite())
            # Its group's gradients show the NaN, so that a training loop can notice it.
            grads = run(case, spoilt, parameters, grad, dim)
            if math.isnan(bad):
                assert not all(g.isfinite().all() for g in grads[2:])


@pytest.mark.parametrize('bad', [NAN, INF])
@pytest.mark.parametrize('layout', ['nchw', 'tokens'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_non_finite_gradient(name, layout, bad, device):
    """It stays in its element and its group; nothing is read or written out of range."""
    case = CASES[name]
    groups = 36 if 'channel' in case.groups else 1
    x, parameters, grad, dim = arguments(case, layout, 36, groups, torch.float32, device)
    where = torch.zeros(x.shape, dtype=torch.bool, device=device)
    where.movedim(dim, 0)[4, 1, 2] = True
    clean = run(case, x, parameters, grad, dim)
    spoilt = run(case, x, parameters, grad.masked_fill(where, bad), dim)
    assert torch.equal(clean[1][~where], spoilt[1][~where])
    if case.op != 'cpab':  # whose parameters do not act on the outside
        assert not all(g.isfinite().all() for g in spoilt[2:])
    if groups > 1:
        others = torch.arange(groups, device=device) != 4
        for a, b in zip(clean[2:], spoilt[2:], strict=True):
            assert torch.equal(a[others], b[others])


@pytest.mark.parametrize('bad', [NAN, INF, -INF])
@pytest.mark.parametrize('layout', ['nchw', 'tokens'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_non_finite_parameters(name, layout, bad, device):
    """They spoil their group and no other, and never crash."""
    case = CASES[name]
    if 'channel' not in case.groups:
        pytest.skip('has one group')
    x, parameters, grad, dim = arguments(case, layout, 36, 36, torch.float32, device)
    others = torch.arange(36, device=device) != 5
    clean = run(case, x, parameters, grad, dim)
    for which in range(len(parameters)):
        spoilt = [p.clone() for p in parameters]
        spoilt[which][5] = bad
        results = run(case, x, spoilt, grad, dim)
        for i, (a, b) in enumerate(zip(clean, results, strict=True)):
            a, b = (t.movedim(dim if i < 2 else 0, 0) for t in (a, b))
            assert torch.equal(a[others], b[others])
        if math.isnan(bad) and case.op != 'cpab':  # which clamps its velocities
            assert results[0].select(dim, 5).isnan().any()


# Layouts in memory --------------------------------------------------------------------------------


@pytest.mark.parametrize('name', SOME_CASES)
def test_grad_in_another_layout_than_x(name, device):
    case = CASES[name]
    layouts = ('nchw', 'channels_last', 'every_second', 'expanded')
    for layout, other in itertools.product(layouts[:3], layouts):
        x, parameters, grad, dim = arguments(case, layout, 3, 1, torch.float32, device)
        compare(name, x, parameters, LAYOUTS[other].place(grad), dim)
        one = torch.ones((), device=device).expand_as(x)  # autograd's gradient of sum()
        compare(name, x, parameters, one, dim)


@pytest.mark.parametrize('name', SOME_CASES)
def test_arguments_are_not_written(name):
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, 'nchw', 3, 1, torch.float32)
    before = [t.clone() for t in (x, *parameters, grad)]
    run(case, x, parameters, grad, dim)
    assert all(map(same_bits, before, (x, *parameters, grad)))


@pytest.mark.parametrize('name', SOME_CASES)
def test_lazily_negated_x(name):
    """A view that is negated only when it is read, as the imaginary part of a conjugate is."""
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, 'nchw', 3, 1, torch.float64)
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    for a, b in zip(
        run(case, view, parameters, grad, dim), run(case, x, parameters, grad, dim), strict=True
    ):
        assert error(a, b) <= 1e-14


def kept_by(case, x, parameters, dim):
    """The tensors that autograd keeps for the backward of an op."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        assert case.call(x, *parameters, channel_dim=dim).requires_grad
    return kept


@pytest.mark.parametrize('name', SOME_CASES)
def test_nothing_but_the_input_is_kept_for_backward(name):
    case = CASES[name]
    for layout in ('nchw', 'channels_last', 'every_second', 'expanded'):
        x, parameters, _, dim = arguments(case, layout, 36, 1, torch.float32)
        kept = kept_by(case, x.requires_grad_(), [p.requires_grad_() for p in parameters], dim)
        large = [t for t in kept if t.numel() > 500]  # x has 1,080 or more, a table 105 at most
        assert [t.data_ptr() for t in large] == [x.data_ptr()], layout
        assert large[0].stride() == x.stride()


@pytest.mark.parametrize('name', SOME_CASES)
def test_gradients_only_of_what_asks_for_them(name):
    case = CASES[name]
    x, parameters, _, dim = arguments(case, 'nchw', 3, 1, torch.float64)
    every = run(case, x, parameters, torch.ones_like(x), dim)[1:]
    for i, expected in enumerate(every):
        inputs = [x.detach(), *parameters]
        inputs[i] = inputs[i].clone().requires_grad_()
        case.call(*inputs, channel_dim=dim).sum().backward()
        assert_near(inputs[i].grad, expected, 1e-14, str(i))
    assert not case.call(x, *parameters, channel_dim=dim).requires_grad


# Builds -------------------------------------------------------------------------------------------


def compare_a_bit_of_everything():
    """Compares on every instruction set, in a process of its own."""
    for name, layout, dtype in itertools.product(
        CASES, ('nchw', 'channels_last', 'every_second', 'tokens'), DTYPES
    ):
        case = CASES[name]
        for channels, groups in combinations(case, layout):
            given = arguments(case, layout, channels, groups, dtype)
            compare(name, *given, what=f'{layout} C={channels} G={groups}')


@pytest.mark.parametrize('level', CPU_LEVELS)
def test_every_instruction_set(level):
    skip_level(level)
    result = run_python(
        'import torch; torch.set_num_threads(1)\n'
        'from test_ops.test_elementwise import compare_a_bit_of_everything\n'
        'from test_ops.test_pau import check_large_inputs\n'
        'from test_ops.test_pwlu import check_exact_edges, check_storage_conversions\n'
        'print(torch.backends.cpu.get_cpu_capability())\n'
        'compare_a_bit_of_everything()\n'
        'check_large_inputs()\n'
        'check_exact_edges()\n'
        'check_storage_conversions()',
        ATEN_CPU_CAPABILITY=level,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == CPU_LEVELS[level]


def test_eager_fallback_warns_once_and_is_right():
    """The ops on a device without kernels, as they run in an install without the extension."""
    result = run_python(
        'import sys, torch, warnings; sys.modules["mmact._C"] = None\n'
        'from test_ops.test_elementwise import *\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    warnings.simplefilter("always")\n'
        '    layouts = ("tokens", "channels_last", "every_second")\n'
        '    some = itertools.product(SOME_CASES, layouts, DTYPES)\n'
        '    for i, (name, layout, dtype) in enumerate(some):\n'
        '        case = CASES[name]\n'
        '        assert not has_kernel(case.op, "cpu")\n'
        '        groups = number_of_groups(case.groups[i % len(case.groups)], 6)\n'
        '        compare(name, *arguments(case, layout, 6, groups, dtype))\n'
        'ours = [str(w.message) for w in caught if "mmact" in str(w.message)]\n'
        'assert len(ours) == 1, ours\n'
        'for word in ("cpu", "pip install", "no-build-isolation", "_C"):\n'
        '    assert word in ours[0], ours[0]\n'
    )
    assert result.returncode == 0, result.stderr
