# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of mmact::pwlu against the float64 reference: dtypes, layouts and sizes."""

import pytest
import torch

from mmact import ops

from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_TOLERANCES,
    TORCH,
    Tolerance,
    between_breakpoints,
    compare_pwlu,
    error,
    make_parameters,
    random_tensor,
    run_python,
    same_bits,
    with_gradients,
)

# 14 and 15, 30 and 31: a table of N + 2 segments just fits the registers of AVX-512, or just not.
INTERVALS = (1, 2, 3, 14, 15, 16, 30, 31, 64)
CHANNELS = (1, 3, 16, 37)


def parameter_dtype(dtype):
    """What parameters are under mixed precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def arguments(layout, channels, num_intervals, dtype, seed=0):
    """(x, parameters, grad) with x and grad placed as the layout says."""
    layout = LAYOUTS[layout]
    channels = 1 if layout.channel_dim is None else channels
    parameters = make_parameters(channels, num_intervals, parameter_dtype(dtype), seed=seed)
    shape = layout.shape(channels)
    x = between_breakpoints(shape, parameters, layout.channel_dim, dtype, seed=seed + 1)
    grad = random_tensor(shape, dtype, seed=seed + 2)
    return layout.place(x), parameters, layout.place(grad)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_kernel_equals_the_reference(layout, dtype):
    for num_intervals in INTERVALS:
        for channels in CHANNELS:
            x, parameters, grad = arguments(layout, channels, num_intervals, dtype)
            compare_pwlu(
                x,
                parameters,
                grad,
                LAYOUTS[layout].channel_dim,
                what=f'C={channels} N={num_intervals}',
            )


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layer_wise_in_every_layout(layout):
    """One function for all elements, whatever their layout; channel_dim is then not looked at."""
    x, _, grad = arguments(layout, 5, 16, torch.float32)
    parameters = make_parameters(1, 16, torch.float32)
    x = LAYOUTS[layout].place(between_breakpoints(x.shape, parameters, None, torch.float32))
    compare_pwlu(x, parameters, grad, channel_dim=99)


# Numbers of elements that a channel has in memory side by side, around everything that cuts the
# work: vectors of 2 to 16, tiles of 2048 (of which a quarter makes a long run), chunks of 16384.
SHORT_RUNS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33)
LONG_RUNS = (511, 512, 513, 2047, 2048, 2049, 4100, 16384, 16385)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('run', SHORT_RUNS + LONG_RUNS)
def test_sizes_of_a_channel(run, dtype):
    channels = 3
    batch = 2 if run in LONG_RUNS else 11
    parameters = make_parameters(channels, 5, parameter_dtype(dtype))
    x = between_breakpoints((batch, channels, run), parameters, 1, dtype, seed=1)
    compare_pwlu(x, parameters, random_tensor(x.shape, dtype, seed=2), 1)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('rows', 'channels'),
    # Around the vectors of 2 to 16 channels, the groups of 256, the tiles of 128 rows or more and
    # the chunks of 128.
    [(1, 2), (127, 2), (128, 15), (129, 17), (300, 31), (1030, 3), (5, 255), (3, 257), (130, 264)],
)
def test_sizes_of_channel_last_tokens(rows, channels, dtype):
    parameters = make_parameters(channels, 5, parameter_dtype(dtype))
    x = between_breakpoints((rows, channels), parameters, -1, dtype, seed=1)
    compare_pwlu(x, parameters, random_tensor(x.shape, dtype, seed=2), -1)


def test_rows_of_many_chunks_are_all_summed():
    """More rows than 32 chunks of 128 hold: chunks become longer."""
    parameters = make_parameters(2, 3, torch.float32)
    x = between_breakpoints((5000, 2), parameters, -1, torch.float32)
    compare_pwlu(x, parameters, torch.ones_like(x), -1)


@pytest.mark.parametrize('x_dtype', DTYPES, ids=str)
@pytest.mark.parametrize('p_dtype', DTYPES, ids=str)
def test_mixed_dtypes(x_dtype, p_dtype):
    """Every pair of dtypes; gradients come in the dtype of what they belong to."""
    parameters = make_parameters(3, 4, p_dtype)
    x = between_breakpoints((2, 3, 9), parameters, 1, x_dtype)
    # Beyond the error of the sums, their results are rounded to the parameters' dtype.
    sums = PWLU_TOLERANCES[x_dtype].sums + torch.finfo(p_dtype).eps / 2
    tolerance = Tolerance(PWLU_TOLERANCES[x_dtype].elements, sums)
    compare_pwlu(x, parameters, random_tensor(x.shape, x_dtype, seed=2), 1, tolerance)


def test_parameters_may_be_of_different_dtypes_and_strided():
    parameters = make_parameters(6, 4, torch.float32)
    wide = [torch.stack([p, p + 100], -1)[..., 0] for p in parameters]
    assert not wide[4].is_contiguous()
    wide[0], wide[3] = wide[0].double(), wide[3].bfloat16()
    x = between_breakpoints((2, 6, 9), wide, 1, torch.float32)
    tolerance = Tolerance(PWLU_TOLERANCES[x.dtype].elements, 2**-8)
    compare_pwlu(x, wide, random_tensor(x.shape, torch.float32, seed=2), 1, tolerance)


@pytest.mark.parametrize('grad_layout', ['expanded', 'every_second', 'channels_last', 'nchw'])
@pytest.mark.parametrize('layout', ['channels_last', 'nchw'])
def test_grad_in_another_layout_than_x(layout, grad_layout):
    x, parameters, _ = arguments(layout, 6, 16, torch.float32)
    grad = LAYOUTS[grad_layout].place(random_tensor(x.shape, torch.float32, seed=2))
    assert grad_layout == layout or grad.stride() != x.stride()
    compare_pwlu(x, parameters, grad, 1)


def test_grad_of_a_sum():
    """autograd's gradient of sum() is one number expanded to the shape."""
    x, parameters, _ = arguments('nchw', 3, 16, torch.float64)
    compare_pwlu(x, parameters, torch.ones((), dtype=x.dtype).expand_as(x), 1)


def test_lazily_negated_x():
    """A view that is negated only when it is read, as the imaginary part of a conjugate is."""
    x, parameters, grad = arguments('nchw', 3, 16, torch.float64)
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    assert torch.equal(ops.pwlu(view, *parameters), ops.pwlu(x, *parameters))
    actual = with_gradients(ops.pwlu, view, parameters, grad)
    for a, b in zip(actual, with_gradients(ops.pwlu, x, parameters, grad), strict=True):
        assert error(a, b) <= 1e-14


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('shape', 'channels', 'channel_dim'),
    [((0, 3, 4, 4), 3, 1), ((2, 3, 0, 4), 3, 1), ((0, 5), 5, -1), ((3, 0, 7), 7, -1), ((0,), 1, 0)],
)
def test_empty(shape, channels, channel_dim, dtype):
    """No elements: a result of the same shape, and gradients of zero."""
    parameters = make_parameters(channels, 4, parameter_dtype(dtype))
    x = torch.empty(shape, dtype=dtype)
    y, gx, *rest = with_gradients(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=channel_dim), x, parameters, x
    )
    assert y.shape == gx.shape == x.shape
    assert y.dtype == gx.dtype == dtype
    assert ops.pwlu(x, *parameters, channel_dim=channel_dim, inference=True).shape == x.shape
    for g, parameter in zip(rest, parameters, strict=True):
        assert torch.equal(g, torch.zeros_like(parameter))


def test_arguments_are_not_written():
    x, parameters, grad = arguments('nchw', 3, 16, torch.float32)
    before = [t.clone() for t in (x, *parameters, grad)]
    with_gradients(ops.pwlu, x, parameters, grad)
    ops.pwlu(x, *parameters, inference=True)
    assert all(map(same_bits, before, (x, *parameters, grad)))


@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_deterministic_on_any_number_of_threads(layout, dtype):
    """The same bits, gradients of parameters included, when repeated and on 1 and 2 threads."""
    channels, dim = 37, LAYOUTS[layout].channel_dim
    shape = (24, 900, channels) if layout == 'tokens' else (24, channels, 30, 30)
    parameters = make_parameters(channels, 16, torch.float32)
    place = LAYOUTS[layout].place
    x = place(random_tensor(shape, dtype, seed=1))
    grad = place(random_tensor(shape, dtype, seed=2))

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return with_gradients(
                lambda x, *p: ops.pwlu(x, *p, channel_dim=dim), x, parameters, grad
            )
        finally:
            torch.set_num_threads(before)

    first = run(1)
    for threads in (1, 2, 2, 3):
        assert all(map(same_bits, first, run(threads))), f'{threads} threads'


def compare_a_bit_of_everything():
    """What every instruction set has to get right; run in processes of their own."""
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for channels, num_intervals in ((1, 16), (3, 1), (16, 30), (37, 31), (3, 15)):
                x, parameters, grad = arguments(layout, channels, num_intervals, dtype)
                what = f'{dtype} {layout} C={channels} N={num_intervals}'
                compare_pwlu(x, parameters, grad, LAYOUTS[layout].channel_dim, what=what)
        test_sizes_of_a_channel(2049, dtype)
        test_sizes_of_channel_last_tokens(129, 17, dtype)


# torch 2.1 says NO AVX for DEFAULT.
LOWEST = 'DEFAULT' if TORCH >= (2, 2) else 'NO AVX'
CPU_LEVELS = {'default': LOWEST, 'avx2': 'AVX2', 'avx512': 'AVX512'}


def cpu_supports(level):
    """Whether this machine runs a level of ATEN_CPU_CAPABILITY that can be asked for."""
    names = list(CPU_LEVELS)
    own = [*CPU_LEVELS.values()].index(torch.backends.cpu.get_cpu_capability())
    # The capability of this process may have been lowered by the environment variable.
    if own < 2 and torch.cpu._is_avx512_supported():
        own = 2
    elif own < 1 and torch.cpu._is_avx2_supported():
        own = 1
    return names.index(level) <= own


@pytest.mark.parametrize('level', CPU_LEVELS)
def test_every_instruction_set(level):
    if not cpu_supports(level):
        pytest.skip(f'this CPU has no {CPU_LEVELS[level]}')
    result = run_python(
        'import torch; torch.set_num_threads(1)\n'
        'from test_ops.test_pwlu import compare_a_bit_of_everything\n'
        'from test_ops.test_pwlu_edges import check_exact_edges, check_storage_conversions\n'
        'print(torch.backends.cpu.get_cpu_capability())\n'
        'compare_a_bit_of_everything()\n'
        'check_exact_edges()\n'
        'check_storage_conversions()',
        ATEN_CPU_CAPABILITY=level,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == CPU_LEVELS[level]
