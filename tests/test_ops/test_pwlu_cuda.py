# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of mmact::pwlu against the float64 reference, and as PyTorch uses them."""

import importlib.util
import math

import pytest
import torch

from mmact import ops

from .test_pwlu_edges import EXACT, exact_case
from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_PARAMETERS,
    PWLU_TOLERANCES,
    Tolerance,
    assert_near,
    between_breakpoints,
    compare_pwlu,
    make_parameters,
    needs_opcheck,
    random_tensor,
    same_bits,
    with_gradients,
)

pytestmark = pytest.mark.cuda

DEVICE = 'cuda'
INF, NAN = math.inf, math.nan


def parameters_for(x_dtype, channels, num_intervals, seed=0):
    """What parameters are under mixed precision, on the GPU."""
    dtype = torch.float64 if x_dtype == torch.float64 else torch.float32
    return make_parameters(channels, num_intervals, dtype, DEVICE, seed)


def arguments(shape, channels, num_intervals, dtype, channel_dim, seed=0):
    """(x, parameters, grad), contiguous, on the GPU."""
    parameters = parameters_for(dtype, channels, num_intervals, seed)
    x = between_breakpoints(shape, parameters, channel_dim, dtype, DEVICE, seed + 1)
    return x, parameters, random_tensor(shape, dtype, DEVICE, seed + 2)


def check(shape, channels, num_intervals, dtype, channel_dim, place=lambda t: t):
    x, parameters, grad = arguments(shape, channels, num_intervals, dtype, channel_dim)
    what = f'{dtype} {tuple(shape)} C={channels} N={num_intervals}'
    compare_pwlu(place(x), parameters, place(grad), channel_dim, what=what)


def test_cuda_kernels_are_compiled():
    """The tests below would otherwise compare the reference with itself."""
    assert ops.has_kernel('pwlu', 'cuda')
    assert ops.has_kernel('pwlu_bwd', 'cuda')


# Against the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_kernel_equals_the_reference(layout, dtype):
    kind = LAYOUTS[layout]
    for num_intervals in (1, 4, 16, 31):
        # Around the 32 channels that a block takes on where channels are neighbours in memory.
        for channels in (1, 3, 32, 37) if kind.channel_dim is not None else (1,):
            shape = kind.shape(channels)
            check(shape, channels, num_intervals, dtype, kind.channel_dim, kind.place)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second'])
@pytest.mark.parametrize('num_intervals', [62, 120, 200, 3000])
def test_more_segments_than_shared_memory_holds(num_intervals, layout, dtype):
    """Sums are then taken in several passes, and tables read from global memory.

    Intervals of length 1 around 0, and x in their middle: exact in all dtypes as far as x goes.
    """
    kind, channels, n = LAYOUTS[layout], 3, num_intervals
    left = torch.tensor([-n // 2, 0, -n], dtype=torch.float64)
    slopes = torch.tensor([0.5, -0.25, 1], dtype=torch.float64)
    points = random_tensor((channels, n + 1))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [p.to(DEVICE, wide) for p in (left, left + n, slopes, -slopes, points)]
    shape = (2, channels, 23, 29) if layout != 'tokens' else (5, 219, channels)
    reach = min(n + 2, 120)  # bfloat16 has halves up to 128
    x = torch.arange(math.prod(shape)) % (2 * reach) - reach + 0.5
    x = kind.place(x.reshape(shape).to(DEVICE, dtype))
    grad = random_tensor(shape, dtype, DEVICE, 2)
    compare_pwlu(x, parameters, grad, kind.channel_dim, what=f'N={n}')


# Numbers of elements that a channel has side by side in memory, around everything that cuts the
# work: vectors of 2 to 8, blocks of 64 to 256 threads, chunks of 4096 to 65536 elements.
RUNS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 127, 128, 129, 255, 256, 257, 511, 513, 1024, 1025)
RUNS += (2047, 2048, 2056, 4104, 8191, 8192, 8193, 65536, 65544)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('run', RUNS)
def test_sizes_of_a_channel(run, dtype):
    check((2 if run > 100 else 37, 3, run), 3, 5, dtype, 1)
    check((run,), 1, 16, dtype, None)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('rows', 'channels'),
    # Around the groups of 32 channels, the 2 to 8 rows of a block, its 8 rows at a time in half
    # precision, and the chunks of 32 to 2048 rows.
    [(1, 2), (1, 33), (2, 31), (7, 32), (8, 33), (9, 63), (63, 64), (65, 65), (128, 7), (255, 8)]
    + [(257, 40), (513, 3), (3001, 2), (4099, 35), (2, 2049)],
)
def test_sizes_of_channel_last_tokens(rows, channels, dtype):
    check((rows, channels), channels, 5, dtype, -1)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('shape', 'channels', 'channel_dim'),
    [((0, 3, 4, 4), 3, 1), ((2, 3, 0, 4), 3, 1), ((0, 5), 5, -1), ((3, 0, 7), 7, -1), ((0,), 1, 0)],
)
def test_empty(shape, channels, channel_dim, dtype):
    """No elements: a result of the same shape, and gradients of zero."""
    parameters = parameters_for(dtype, channels, 4)
    x = torch.empty(shape, dtype=dtype, device=DEVICE)
    y, gx, *rest = with_gradients(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=channel_dim), x, parameters, x
    )
    assert y.shape == gx.shape == x.shape
    assert ops.pwlu(x, *parameters, channel_dim=channel_dim, inference=True).shape == x.shape
    for g, parameter in zip(rest, parameters, strict=True):
        assert torch.equal(g, torch.zeros_like(parameter))


@pytest.mark.parametrize('shape', [(9, 3, 300, 311), (9, 311, 300, 3), (6, 1, 512, 512)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_many_chunks(shape, dtype):
    """Several work items per channel, in both layouts, of which the last is not full."""
    x, parameters, grad = arguments(shape, shape[1], 4, dtype, 1)
    compare_pwlu(x, parameters, grad, 1)
    x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    compare_pwlu(x, parameters, grad, 1)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('which', ['x', 'grad'])
def test_memory_that_does_not_start_on_16_bytes(which, dtype):
    x, parameters, grad = arguments((2, 3, 64), 3, 16, dtype, 1)

    def shifted(t):
        view = torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
        assert view.data_ptr() % 16
        return view

    x, grad = (shifted(x), grad) if which == 'x' else (x, shifted(grad))
    compare_pwlu(x, parameters, grad, 1)


@pytest.mark.parametrize('x_dtype', DTYPES, ids=str)
@pytest.mark.parametrize('p_dtype', DTYPES, ids=str)
def test_mixed_dtypes(x_dtype, p_dtype):
    """Every pair of dtypes; gradients come in the dtype of what they belong to."""
    parameters = make_parameters(3, 4, p_dtype, DEVICE)
    x = between_breakpoints((2, 3, 9), parameters, 1, x_dtype, DEVICE)
    sums = PWLU_TOLERANCES[x_dtype].sums + torch.finfo(p_dtype).eps / 2
    tolerance = Tolerance(PWLU_TOLERANCES[x_dtype].elements, sums)
    compare_pwlu(x, parameters, random_tensor(x.shape, x_dtype, DEVICE, 2), 1, tolerance)


def test_parameters_may_be_of_different_dtypes_and_strided():
    parameters = make_parameters(6, 4, torch.float32, DEVICE)
    wide = [torch.stack([p, p + 100], -1)[..., 0] for p in parameters]
    wide[0], wide[3] = wide[0].double(), wide[3].bfloat16()
    x = between_breakpoints((2, 6, 9), wide, 1, torch.float32, DEVICE)
    tolerance = Tolerance(PWLU_TOLERANCES[x.dtype].elements, 2**-8)
    compare_pwlu(x, wide, random_tensor(x.shape, torch.float32, DEVICE, 2), 1, tolerance)


@pytest.mark.parametrize('grad_layout', ['expanded', 'every_second', 'channels_last', 'nchw'])
@pytest.mark.parametrize('layout', ['channels_last', 'nchw'])
def test_grad_in_another_layout_than_x(layout, grad_layout):
    x, parameters, grad = arguments((4, 6, 5, 7), 6, 16, torch.float32, 1)
    compare_pwlu(LAYOUTS[layout].place(x), parameters, LAYOUTS[grad_layout].place(grad), 1)
    one = torch.ones((), device=DEVICE).expand_as(x)  # autograd's gradient of sum()
    compare_pwlu(LAYOUTS[layout].place(x), parameters, one, 1)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_exact_edges(dtype):
    """A left end of a segment belongs to it: its slope, and all of the gradient to its point."""
    for left, length, n in EXACT:
        parameters, x, slopes = exact_case(left, length, n, dtype)
        parameters, x = [p.to(DEVICE) for p in parameters], x.to(DEVICE)
        y, gx, *gradients = with_gradients(ops.pwlu, x, parameters, torch.ones_like(x))
        what = f'{left} {length} {n}'
        assert torch.equal(gx.cpu().double(), slopes[1:].repeat(17)), what
        assert torch.equal(y, parameters[4][0].repeat(17).to(dtype)), what
        points = dict(zip(PWLU_PARAMETERS, gradients, strict=True))['points']
        assert torch.equal(points, torch.full_like(points, 17)), what
        for shape, dim in (((2, 3, -1), 1), ((3, -1, 5), 2)):
            channels = shape[dim]
            wide, x, _ = exact_case(left, length, n, dtype, channels)
            x = x.reshape(1, 1, -1) if dim == 1 else x.reshape(1, -1, 1)
            x = x.expand([s if s > 0 else max(x.shape) for s in shape]).to(DEVICE)
            wide = [p.to(DEVICE) for p in wide]
            compare_pwlu(x, wide, torch.ones_like(x), dim, what=f'{what} {shape}')


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second'])
@pytest.mark.parametrize('num_intervals', [16, 300])
def test_non_finite_numbers(num_intervals, layout, dtype):
    """NaN and infinities come out where they went in, and spoil the sums they belong to alone."""
    kind, channels = LAYOUTS[layout], 35
    parameters = parameters_for(dtype, channels, 16)
    shape = kind.shape(channels)
    clean = between_breakpoints(shape, parameters, kind.channel_dim, dtype, DEVICE)
    if num_intervals > 16:  # other segments; what matters here is that no index is out of range
        parameters = parameters_for(dtype, channels, num_intervals)
    grad = torch.ones_like(clean)

    def run(x, grad):
        return with_gradients(
            lambda x, *p: ops.pwlu(x, *p, channel_dim=kind.channel_dim), x, parameters, grad
        )

    for bad in (NAN, INF, -INF):
        x = clean.clone()
        x.view(-1)[::5] = bad
        x = kind.place(x)
        for inference in (False, True):
            y = ops.pwlu(x, *parameters, channel_dim=kind.channel_dim, inference=inference)
            assert torch.equal(y.isfinite(), x.isfinite())
            assert torch.equal(y.isnan(), x.isnan())
        if num_intervals == 16:
            compare_pwlu(x, parameters, kind.place(grad), kind.channel_dim, what=f'{bad}')
        spoilt = grad.masked_fill(x.isfinite(), bad)
        gx = run(x, kind.place(spoilt))[1]
        assert torch.equal(gx.isfinite(), spoilt.isfinite())
    for i in range(5):  # parameters of channel 4
        spoilt = [p.clone() for p in parameters]
        spoilt[i][4] = NAN
        y = ops.pwlu(clean, *spoilt, channel_dim=kind.channel_dim)
        assert y.movedim(kind.channel_dim, 0)[5:].isfinite().all()


@pytest.mark.parametrize('distance', [0.0, -1e-7, -2.0])
def test_bounds_that_meet_or_cross(distance):
    left, _, *rest = make_parameters(3, 4, torch.float32, DEVICE)
    offsets = torch.tensor([-4.0, -1.0, -0.5, -0.125, 0.125, 0.5, 2.0, 8.0], device=DEVICE)
    x = left + offsets[:, None]
    grad = random_tensor(x.shape, torch.float32, DEVICE, 1)
    compare_pwlu(x, (left, left + distance, *rest), grad, 1)


# On the device ------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'layer'])
def test_deterministic(layout, dtype):
    """The same bits every time, gradients of parameters included."""
    channels = 1 if layout == 'layer' else 67
    parameters = make_parameters(channels, 16, torch.float32, DEVICE)
    x, grad = (random_tensor((16, 67, 96, 96), dtype, DEVICE, seed) for seed in (1, 2))
    if layout == 'channels_last':
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    first = with_gradients(ops.pwlu, x, parameters, grad)
    for _ in range(5):
        assert all(map(same_bits, first, with_gradients(ops.pwlu, x, parameters, grad)))


@pytest.mark.parametrize('layout', ['planes', 'odd_planes', 'tokens', 'layer'])
def test_more_than_2_to_the_31_elements(layout):
    """Offsets beyond 32 bits: the whole must equal its parts."""
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip('needs 30 GB of free GPU memory')
    shape, dim, channels = {
        'planes': ((8, 2, (1 << 27) + 8), 1, 2),
        'odd_planes': ((8, 2, (1 << 27) + 1), 1, 2),
        'tokens': ((8, (1 << 23) + 1, 33), 2, 33),
        'layer': ((8, (1 << 28) + 3), 0, 1),
    }[layout]
    parameters = make_parameters(channels, 8, torch.float32, DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.empty(shape, dtype=torch.float16, device=DEVICE).normal_(generator=generator)
    grad = torch.empty_like(x).uniform_(generator=generator)
    assert x.numel() > 2**31
    y, gx, *sums = with_gradients(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=dim), x, parameters, grad
    )
    totals = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    sizes = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for i in range(shape[0]):
        part = slice(i, i + 1)
        y_part, gx_part, *rest = with_gradients(
            lambda x, *p: ops.pwlu(x, *p, channel_dim=dim), x[part], parameters, grad[part]
        )
        assert torch.equal(y[part], y_part), f'part {i}'
        assert torch.equal(gx[part], gx_part), f'part {i}'
        for total, size, g in zip(totals, sizes, rest, strict=True):
            total += g
            size += g.abs()
    for name, g, total, size in zip(PWLU_PARAMETERS, sums, totals, sizes, strict=True):
        assert_near(g / size.max(), total / size.max(), 1e-5, name)


def test_runs_on_the_current_stream():
    """Work queued before it on its stream is done, whatever the default stream does."""
    x, parameters, grad = arguments((4, 8, 64, 64), 8, 16, torch.float32, 1)
    expected = with_gradients(ops.pwlu, x, parameters, grad)
    late_x, late_grad = torch.zeros_like(x), torch.zeros_like(grad)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
        late_x.copy_(x)
        late_grad.copy_(grad)
        actual = with_gradients(ops.pwlu, late_x, parameters, late_grad)
    stream.synchronize()
    assert all(map(same_bits, actual, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
def test_runs_on_the_device_of_x():
    """The current device stays another one."""
    x, parameters, grad = arguments((4, 8, 16, 16), 8, 16, torch.float32, 1)
    expected = with_gradients(ops.pwlu, x, parameters, grad)
    assert torch.cuda.current_device() == 0
    there = [t.to('cuda:1') for t in (x, *parameters, grad)]
    actual = with_gradients(ops.pwlu, there[0], there[1:-1], there[-1])
    assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device('cuda:1') for t in actual)
    assert all(map(same_bits, actual, expected))
    with pytest.raises(RuntimeError, match='parameters must be .* on cuda:1'):
        ops.pwlu(there[0], *parameters)


def test_parameters_on_another_device_are_refused():
    x, parameters, _ = arguments((2, 3, 4), 3, 4, torch.float32, 1)
    with pytest.raises(RuntimeError, match='parameters must be .* on cuda:0, got .* on cpu'):
        ops.pwlu(x, *(p.cpu() for p in parameters))


def test_never_waits_for_the_gpu():
    x, parameters, grad = arguments((2, 3, 40), 3, 16, torch.float32, 1)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for layout in ('ncl', 'transposed'):
            t = LAYOUTS[layout].place(x)
            with_gradients(ops.pwlu, t, parameters, grad)
            ops.pwlu(t, *parameters, inference=True)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
def test_cuda_graph(layout):
    """Captured once and replayed on other numbers, forward and backward."""
    x, parameters, grad = arguments((2, 40, 24, 24), 40, 16, torch.float32, 1)
    x, grad = (LAYOUTS[layout].place(t) for t in (x, grad))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a warm-up, as torch.cuda.graph asks for
        with_gradients(ops.pwlu, x, parameters, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = with_gradients(ops.pwlu, x, parameters, grad)
    for seed in (10, 20):
        new_x, new_parameters, new_grad = arguments(x.shape, 40, 16, torch.float32, 1, seed)
        for old, new in zip(
            (x, *parameters, grad), (new_x, *new_parameters, new_grad), strict=True
        ):
            old.copy_(new)
        graph.replay()
        expected = with_gradients(ops.pwlu, x, parameters, grad)
        assert all(map(same_bits, results, expected))


# Transformations ----------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_compile_without_graph_breaks(backend):
    if backend == 'inductor' and importlib.util.find_spec('triton') is None:
        pytest.skip('inductor needs Triton for GPUs')
    parameters = make_parameters(8, 8, torch.float32, DEVICE)

    def function(x, *parameters):
        return ops.pwlu(x * 2, *parameters) + 1

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    for layout, shape in (('nchw', (2, 8, 5, 5)), ('channels_last', (4, 8, 6, 2))):
        x = random_tensor(shape, torch.float32, DEVICE, 1)
        x, grad = LAYOUTS[layout].place(x), random_tensor(shape, torch.float32, DEVICE, 2)
        actual = with_gradients(compiled, x, parameters, grad)
        expected = with_gradients(function, x, parameters, grad)
        for a, b in zip(actual, expected, strict=True):
            assert_near(a, b, 1e-6)


@needs_opcheck
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'tokens', 'every_second'])
def test_opcheck(layout):
    kind = LAYOUTS[layout]
    dim = kind.channel_dim % len(kind.shape(3))
    x, parameters, _ = arguments(kind.shape(3), 3, 5, torch.float32, kind.channel_dim)
    inputs = [kind.place(x), *parameters]
    torch.library.opcheck(torch.ops.mmact.pwlu_bwd.default, (inputs[0], *inputs, dim))
    inputs = [t.detach().requires_grad_() for t in inputs]
    for inference in (False, True):
        torch.library.opcheck(torch.ops.mmact.pwlu.default, (*inputs, dim, inference))


@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'scalar'])
def test_gradcheck(layout):
    kind = LAYOUTS[layout]
    channels, dim = (3, 1) if kind.channel_dim else (1, 0)
    x, parameters, _ = arguments(kind.shape(channels), channels, 5, torch.float64, kind.channel_dim)
    inputs = [t.detach().requires_grad_() for t in (kind.place(x), *parameters)]
    assert torch.autograd.gradcheck(
        lambda x, *p: ops.pwlu(x, *p, channel_dim=dim), inputs, atol=1e-7, rtol=1e-7
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    """The result of an autocast layer goes in as it is, beside float32 parameters."""
    parameters = [p.requires_grad_() for p in make_parameters(16, 8, torch.float32, DEVICE)]
    linear = torch.nn.Linear(8, 16, device=DEVICE)
    with torch.autocast(DEVICE, dtype=dtype):
        hidden = linear(torch.ones(4, 8, device=DEVICE))
        y = ops.pwlu(hidden, *parameters, channel_dim=-1)
    assert hidden.dtype == y.dtype == dtype
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in (*parameters, *linear.parameters()))
    assert parameters[4].grad.abs().sum() > 0
