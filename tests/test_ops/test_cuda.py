# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The elementwise ops on a GPU: streams, devices, graphs, huge tensors."""

import pytest
import torch

from mmact import ops

from .cases import CASES
from .test_elementwise import SOME_CASES, compare, contiguous_arguments, run
from .utils import (
    GPU,
    LAYOUTS,
    PWLU_PARAMETERS,
    assert_near,
    make_parameters,
    same_bits,
    with_gradients,
)

pytestmark = pytest.mark.cuda

gpu_only = pytest.mark.gpu_only


def on_gpu(name, shape, groups, seed=1):
    """(case, x, parameters, grad) in float32, groups being 1 for functions of a layer."""
    case = CASES[name]
    groups = groups if 'channel' in case.groups else 1
    return case, *contiguous_arguments(case, shape, 1, groups, torch.float32, GPU, seed)


@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_deterministic(name, layout):
    """The same bits every time, gradients of parameters included."""
    case, x, parameters, grad = on_gpu(name, (8, 37, 50, 50), 37)
    x, grad = (LAYOUTS[layout].place(t) for t in (x, grad))
    first = run(case, x, parameters, grad, 1)
    for _ in range(5):
        assert all(map(same_bits, first, run(case, x, parameters, grad, 1)))


@pytest.mark.parametrize('name', SOME_CASES)
def test_many_chunks(name):
    """Several work items per channel, in both layouts, of which the last is not full."""
    for shape in ((9, 3, 300, 311), (9, 311, 300, 3), (6, 1, 512, 512)):
        case, x, parameters, grad = on_gpu(name, shape, shape[1])
        compare(name, x, parameters, grad, 1, f'{shape}')
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
        compare(name, x, parameters, grad, 1, f'{shape}')


@gpu_only
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
    parameters = make_parameters(channels, 8, torch.float32, GPU)
    generator = torch.Generator(GPU).manual_seed(0)
    x = torch.empty(shape, dtype=torch.float16, device=GPU).normal_(generator=generator)
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


@gpu_only
@pytest.mark.parametrize('name', SOME_CASES)
def test_runs_on_the_current_stream(name):
    """Work queued before it on its stream is done, whatever the default stream does."""
    case, x, parameters, grad = on_gpu(name, (4, 8, 64, 64), 8)
    expected = run(case, x, parameters, grad, 1)
    late_x, late_grad = torch.zeros_like(x), torch.zeros_like(grad)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
        late_x.copy_(x)
        late_grad.copy_(grad)
        actual = run(case, late_x, parameters, late_grad, 1)
    stream.synchronize()
    assert all(map(same_bits, actual, expected))


@gpu_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
@pytest.mark.parametrize('name', SOME_CASES)
def test_runs_on_the_device_of_x(name):
    """The current device stays another one."""
    case, x, parameters, grad = on_gpu(name, (4, 8, 16, 16), 8)
    expected = run(case, x, parameters, grad, 1)
    assert torch.cuda.current_device() == 0
    x, grad, *there = (t.to('cuda:1') for t in (x, grad, *parameters))
    actual = run(case, x, there, grad, 1)
    assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device('cuda:1') for t in actual)
    assert all(map(same_bits, actual, expected))
    with pytest.raises(RuntimeError, match='cuda:1'):
        case.call(x, *parameters, channel_dim=1)


@gpu_only
@pytest.mark.parametrize('name', [name for name in SOME_CASES if name != 'arelu'])
def test_parameters_on_another_device_are_refused(name):
    case, x, parameters, _ = on_gpu(name, (2, 3, 4), 3)
    with pytest.raises(RuntimeError, match='cuda:0'):
        case.call(x, *(p.cpu() for p in parameters), channel_dim=1)


@gpu_only
@pytest.mark.parametrize('name', SOME_CASES)
def test_never_waits_for_the_gpu(name):
    case, x, parameters, grad = on_gpu(name, (2, 3, 40), 3)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for layout in ('ncl', 'transposed'):
            run(case, LAYOUTS[layout].place(x), parameters, grad, 1)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@gpu_only
@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
@pytest.mark.parametrize('name', SOME_CASES)
def test_cuda_graph(name, layout):
    """Captured once and replayed on other numbers, forward and backward."""
    shape = (2, 40, 24, 24)
    case, x, parameters, grad = on_gpu(name, shape, 40)
    x, grad = (LAYOUTS[layout].place(t) for t in (x, grad))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a warm-up, as torch.cuda.graph asks for
        run(case, x, parameters, grad, 1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(case, x, parameters, grad, 1)
    for seed in (10, 20):
        _, new_x, new_parameters, new_grad = on_gpu(name, shape, 40, seed)
        for old, new in zip(
            (x, *parameters, grad), (new_x, *new_parameters, new_grad), strict=True
        ):
            old.copy_(new)
        graph.replay()
        expected = run(case, x, parameters, grad, 1)
        assert all(map(same_bits, results, expected))
