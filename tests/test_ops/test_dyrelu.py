# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Dynamic ReLU's kernels against the float64 reference in every setting, and values by hand."""

import itertools
import math

import pytest
import torch
from marks import slow_unless

from mmact import ops
from mmact.ops import has_kernel, reference
from mmact.ops.dyrelu import MAX_FUNCTIONS

from .utils import (
    CPU_LEVELS,
    DTYPES,
    GPU,
    LAYOUTS,
    TORCH,
    Tolerance,
    assert_near,
    needs_opcheck,
    random_tensor,
    run_python,
    same_bits,
    skip_level,
    with_gradients,
)

NAN, INF = math.nan, math.inf
# Those with samples at dimension 0 and channels elsewhere.
SAMPLES = {n: v for n, v in LAYOUTS.items() if v.channel_dim not in (0, None)}
# (number of functions, coefficients per channel or for all, attention)
SETTINGS = [
    (K, per_channel, attention)
    for K in (1, 2, 3)
    for per_channel, attention in ((True, False), (True, True), (False, False))
]
# By the dtype of x. Beside them the worst that was measured on any instruction set; half precisions
# round the result.
TOLERANCES = {
    torch.float64: Tolerance(1e-13, 1e-13),  # 2.7e-15
    torch.float32: Tolerance(1e-6, 5e-6),  # 1.1e-7, 9.4e-7
    torch.float16: Tolerance(2**-11, 5e-6),  # 4.6e-4, 9.3e-7
    torch.bfloat16: Tolerance(2**-8, 5e-6),  # 3.8e-3, 4.2e-7
}


def parameter_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def make(shape, dim, K, per_channel, attention, dtype, device='cpu', seed=1):
    """(x, [coefficients, attention if there is one], grad)."""
    dim %= len(shape)
    x = (2 * random_tensor(shape, seed=seed)).to(device, dtype)
    grad = random_tensor(shape, dtype, device, seed=seed + 1)
    kind = parameter_dtype(dtype)
    count = (shape[0], 2 * K, shape[dim] if per_channel else 1)
    parameters = [random_tensor(count, kind, device, seed=seed + 2)]
    if attention:
        pixels = [1 if d == dim else n for d, n in enumerate(shape)]
        parameters.append(random_tensor(pixels, kind, device, seed=seed + 4).sigmoid())
    return x, parameters, grad


def call(function, dim):
    def run(x, coefficients, attention=None):
        return function(x, coefficients, attention, channel_dim=dim)

    return run


def compare(x, parameters, grad, dim, what=''):
    """Fails unless the op and its gradients are the reference's, in dtype and strides too."""
    actual = with_gradients(call(ops.dyrelu, dim), x, parameters, grad)
    exact = [t.detach().cpu().double() for t in (x, *parameters, grad)]
    expected = with_gradients(call(reference.dyrelu, dim), exact[0], exact[1:-1], exact[-1])
    assert actual[0].dtype == actual[1].dtype == x.dtype
    assert actual[0].stride() == actual[1].stride() == torch.empty_like(x).stride(), what
    limits = TOLERANCES[x.dtype]
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_near(a, b, limits.elements if i < 2 else limits.sums, f'{what} result {i}')
    for gradient, parameter in zip(actual[2:], parameters, strict=True):
        assert gradient.dtype == parameter.dtype
    closed = reference.dyrelu_bwd(exact[-1], *exact[:-1], channel_dim=dim % x.dim())
    for a, b in zip(closed, expected[1:], strict=False):
        assert_near(a, b, 1e-14, f'{what} closed form')


def squeeze_results(function, x, weight, grads, dim):
    """(averages, projections, gradient of x, gradient of the weight) where x is used as well."""
    leaves = [t.detach().requires_grad_() for t in (x, weight) if t is not None]
    same, mean, logits = function(leaves[0], leaves[1] if weight is not None else None, dim)
    outputs = [(same, grads[0]), (mean, grads[1])]
    if weight is not None:
        outputs.append((logits, grads[2]))
    loss = sum((out * grad.to(out.dtype)).sum() for out, grad in outputs)
    return [out.detach() for out, _ in outputs[1:]] + list(torch.autograd.grad(loss, leaves))


def squeeze_reference(x, weight, dim):
    return x, *reference.dyrelu_squeeze(x, weight, dim % x.dim())


def compare_squeeze(x, weight, dim, what=''):
    grads = [random_tensor(x.shape, x.dtype, x.device, seed=7)]
    shape = list(x.shape)
    shape[dim % x.dim()] = 1
    grads.append(random_tensor((x.size(0), x.size(dim)), device=x.device, seed=8))
    grads.append(random_tensor(shape, device=x.device, seed=9))
    actual = squeeze_results(ops.dyrelu_squeeze, x, weight, grads, dim)
    exact = [t if t is None else t.detach().cpu().double() for t in (x, weight, *grads)]
    expected = squeeze_results(squeeze_reference, exact[0], exact[1], exact[2:], dim)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        of_x = i == (1 if weight is None else 2)
        limits = TOLERANCES[x.dtype]
        assert_near(a, b, limits.elements if of_x else limits.sums, f'{what} result {i}')
        assert a.dtype == (x.dtype if of_x else wide)


def test_kernels_are_compiled():
    """The suite would otherwise compare the reference with itself."""
    for name in ('dyrelu', 'dyrelu_bwd', 'dyrelu_squeeze', 'dyrelu_squeeze_bwd_'):
        assert has_kernel(name, 'cpu')


@pytest.mark.cuda
def test_cuda_kernels_are_compiled():
    for name in ('dyrelu', 'dyrelu_bwd', 'dyrelu_squeeze', 'dyrelu_squeeze_bwd_'):
        assert has_kernel(name, GPU)


# Against the reference ----------------------------------------------------------------------------


def check_layouts(setting, dtype, device='cpu', widths=(3, 36)):
    for name, layout in SAMPLES.items():
        for channels in widths:
            x, parameters, grad = make(
                layout.shape(channels), layout.channel_dim, *setting, dtype, device
            )
            given = layout.place(x), parameters, layout.place(grad)
            compare(*given, layout.channel_dim, f'{name} C={channels}')


def check_squeeze_layouts(project, dtype, device='cpu', widths=(3, 36)):
    for name, layout in SAMPLES.items():
        for channels in widths:
            x = layout.place(random_tensor(layout.shape(channels), dtype, device))
            weight = random_tensor((channels,), parameter_dtype(dtype), device, seed=1)
            compare_squeeze(
                x, weight if project else None, layout.channel_dim, f'{name} {channels}'
            )


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('setting', SETTINGS, ids=str)
def test_kernel_equals_the_reference(setting, dtype, device):
    check_layouts(setting, dtype, device, widths=(1, 3, 36, 70))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('project', [False, True])
def test_squeeze_equals_the_reference(project, dtype, device):
    check_squeeze_layouts(project, dtype, device, widths=(1, 3, 36, 70))


def test_channels_between_other_dimensions(device):
    for dtype in (torch.float32, torch.bfloat16):
        x, parameters, grad = make((3, 4, 37, 5), 2, 2, True, True, dtype, device)
        compare(x, parameters, grad, 2)
        weight = random_tensor((37,), torch.float32, device)
        compare_squeeze(x, weight, 2)
        swapped = x.transpose(0, 1).contiguous().transpose(0, 1)  # samples are not apart
        compare(swapped, parameters, grad, 2)
        compare_squeeze(swapped, weight, 2)
        compare(swapped, *make((3, 4, 37, 5), 2, 2, False, False, dtype, device)[1:], 2)


# Runs around the widths of vectors (4 to 32), of a warp's (512) and of tiles (2048); channels
# around vectors (16), warps (32) and blocks (64).
@pytest.mark.parametrize('pixels', [1, 7, 15, 17, 127, 129, 511, 513, 2047, 2049, 5000])
@pytest.mark.parametrize('channels', [1, 16, 33, 65])
def test_sizes(pixels, channels, device):
    for dtype, shape in itertools.product(
        (torch.float32, torch.bfloat16), ((2, channels, pixels), (2, pixels, channels))
    ):
        dim = 1 if shape[1] == channels else 2
        for setting in ((2, True, True), (2, False, False)):
            compare(*make(shape, dim, *setting, dtype, device), dim, f'{shape} {setting}')
        x = random_tensor(shape, dtype, device)
        compare_squeeze(x, random_tensor((channels,), torch.float32, device), dim, f'{shape}')


def test_many_functions(device):
    """Up to the kernels' most, and beyond it."""
    for K in (5, MAX_FUNCTIONS, MAX_FUNCTIONS + 1):
        compare(*make((2, 6, 5, 7), 1, K, True, True, torch.float32, device), 1, f'K={K}')


@pytest.mark.parametrize('level', CPU_LEVELS)
def test_every_instruction_set(level):
    skip_level(level)
    result = run_python(
        'import torch; torch.set_num_threads(1)\n'
        'from test_ops.test_dyrelu import *\n'
        'for dtype in DTYPES:\n'
        '    for setting in SETTINGS[3:7]: check_layouts(setting, dtype)\n'
        '    for project in (False, True): check_squeeze_layouts(project, dtype)\n'
        'print(torch.backends.cpu.get_cpu_capability())',
        ATEN_CPU_CAPABILITY=level,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == CPU_LEVELS[level]


def test_without_kernels():
    """The eager form, to which devices without a kernel fall back."""
    result = run_python(
        'import sys, warnings; sys.modules["mmact._C"] = None\n'
        'warnings.simplefilter("ignore")\n'
        'from test_ops.test_dyrelu import *\n'
        'assert not has_kernel("dyrelu", "cpu")\n'
        'for dtype in (torch.float32, torch.bfloat16):\n'
        '    for setting in SETTINGS[4:7]: check_layouts(setting, dtype)\n'
        '    for project in (False, True): check_squeeze_layouts(project, dtype)'
    )
    assert result.returncode == 0, result.stderr


def test_gradcheck(device):
    for setting, name in itertools.product(SETTINGS[3:7], ('nchw', 'channels_last')):
        layout = SAMPLES[name]
        x, parameters, _ = make(layout.shape(3), 1, *setting, torch.float64, device)
        inputs = [t.detach().requires_grad_() for t in (layout.place(x), *parameters)]
        torch.autograd.gradcheck(call(ops.dyrelu, 1), inputs, eps=1e-7, atol=1e-6)
        weight = random_tensor((3,), device=device).requires_grad_()
        torch.autograd.gradcheck(
            lambda x, w: ops.dyrelu_squeeze(x, w), (inputs[0], weight), eps=1e-7, atol=1e-6
        )


# As PyTorch sees it -------------------------------------------------------------------------------


@needs_opcheck
@pytest.mark.parametrize(
    'layout',
    slow_unless(
        ('nchw', 'every_second').__contains__,
        ['nchw', 'channels_last', 'tokens', 'every_second', 'expanded'],
    ),
)
def test_opcheck(layout, device):
    kind = SAMPLES[layout]
    for setting, dtype in ((SETTINGS[3], torch.bfloat16), (SETTINGS[4], torch.float32)):
        x, parameters, grad = make(kind.shape(6), kind.channel_dim, *setting, dtype, device)
        x, dim = kind.place(x), kind.channel_dim % x.dim()
        parameters += [None] * (2 - len(parameters))
        given = [t if t is None else t.requires_grad_() for t in (x.detach(), *parameters)]
        torch.library.opcheck(torch.ops.mmact.dyrelu.default, (*given, dim))
        plain = [t if t is None else t.detach() for t in given]
        torch.library.opcheck(torch.ops.mmact.dyrelu_bwd.default, (grad, *plain, dim))
        for weight in (None, random_tensor((6,), torch.float32, device)):
            torch.library.opcheck(
                torch.ops.mmact.dyrelu_squeeze.default,
                (given[0], weight if weight is None else weight.requires_grad_(), dim),
            )
            with torch.no_grad():
                mean, logits = torch.ops.mmact.dyrelu_squeeze(plain[0], weight, dim)
            none = weight is None
            torch.library.opcheck(
                torch.ops.mmact.dyrelu_squeeze_bwd_.default,
                (
                    torch.empty_like(plain[0]).copy_(grad),
                    None if none else plain[0],
                    mean,
                    None if none else logits,
                    None if none else weight.detach(),
                    dim,
                ),
            )


@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
def test_deterministic_on_any_number_of_threads(layout):
    place = LAYOUTS[layout].place
    x, parameters, grad = make((4, 70, 50, 50), 1, 2, True, True, torch.float32)
    x, grad = place(x), place(grad)
    weight = random_tensor((70,), torch.float32)

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return [
                *with_gradients(call(ops.dyrelu, 1), x, parameters, grad),
                *squeeze_results(
                    ops.dyrelu_squeeze, x, weight, (grad, grad[:, :, 0, 0], grad[:, :1]), 1
                ),
            ]
        finally:
            torch.set_num_threads(before)

    first = run(1)
    for threads in (1, 2, 3):
        assert all(map(same_bits, first, run(threads))), f'{threads} threads'


@pytest.mark.cuda
@pytest.mark.parametrize('layout', ['nchw', 'channels_last'])
def test_deterministic_on_cuda(layout):
    x, parameters, grad = make((4, 70, 50, 50), 1, 2, True, True, torch.float32, GPU)
    x = LAYOUTS[layout].place(x)
    runs = [with_gradients(call(ops.dyrelu, 1), x, parameters, grad) for _ in range(5)]
    assert all(same_bits(a, b) for run in runs for a, b in zip(runs[0], run, strict=True))


@pytest.mark.skipif(TORCH < (2, 5), reason='profiles by events came with torch 2.5')
def test_no_second_tensor_of_the_inputs_size_in_backward():
    """The average's gradient is added in place, to the tensor that dyrelu's backward has made."""
    x = random_tensor((2, 64, 32, 32), torch.float32).requires_grad_()
    weight = random_tensor((64,), torch.float32).requires_grad_()
    coefficients = random_tensor((2, 4, 64), torch.float32)

    def run():
        same, mean, logits = ops.dyrelu_squeeze(x, weight)
        attention = logits.flatten(1).softmax(1).reshape(logits.shape)
        y = ops.dyrelu(same, coefficients + mean.unsqueeze(1), attention)
        y.backward(x.detach())

    run()
    x.grad = None
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    held, peak = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    # y and the gradient of x, as for ReLU, and less than a byte per element.
    assert peak < (2 + 1 / 4) * x.numel() * x.element_size()


def test_empty(device):
    for shape in ((0, 6, 4, 4), (2, 6, 0)):
        for setting in ((2, True, True), (3, False, False)):
            x, parameters, grad = make(shape, 1, *setting, torch.float32, device)
            y, gx, *grads = with_gradients(call(ops.dyrelu, 1), x, parameters, grad)
            assert y.shape == gx.shape == shape
            assert all((g == 0).all() for g in grads)
        weight = random_tensor((6,), torch.float32, device)
        _, mean, logits = ops.dyrelu_squeeze(x, weight)
        assert mean.shape == (shape[0], 6)
        assert logits.shape == (shape[0], 1, *shape[2:])


# The function -------------------------------------------------------------------------------------


def row(*numbers, dtype=torch.float64, device='cpu'):
    """(1, 2 K, 1) coefficients of one channel."""
    return torch.tensor(numbers, dtype=dtype, device=device).reshape(1, -1, 1)


def test_by_hand(device):
    """max(2 x - 1, -x, 0.5) with attention 0.5: the functions meet at 0.75 and -0.5."""
    x = torch.tensor([[[-3.0, -0.5, 0.0, 0.75, 2.0]]], dtype=torch.float64, device=device)
    attention = torch.full_like(x, 0.5)
    grad = torch.tensor([[[1.0, 10, 100, 1000, 10000]]], dtype=torch.float64, device=device)
    coefficients = row(2.0, -1.0, 0.0, -1.0, 0.0, 0.5, device=device)
    y, gx, gc, gp = with_gradients(call(ops.dyrelu, 1), x, (coefficients, attention), grad)
    assert y.flatten().tolist() == [1.5, 0.25, 0.25, 0.25, 1.5]
    # Where two meet, the last one counts: the constant, whose slope is 0.
    assert gx.flatten().tolist() == [-0.5, 0, 0, 0, 10000]
    assert gc.flatten().tolist() == [10000, -1.5, 0.5 * (-5 + 750), 5000, 0.5, 555]
    assert gp.flatten().tolist() == [3, 5, 50, 500, 30000]


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_special_cases_of_table_1(dtype, device):
    """ReLU, LeakyReLU, PReLU and SE, to the bit where no rounding differs, gradients too."""
    x = random_tensor((3, 5, 4, 4), dtype, device, seed=3)
    x[0, 0, 0] = 0
    grad = random_tensor(x.shape, dtype, device, seed=4)
    one = torch.ones(3, 5, dtype=dtype, device=device)
    leaks = torch.tensor([0.25, 0.5, 0.125, 0, 1], dtype=dtype, device=device)  # exact
    for function, second in (
        (torch.relu, 0 * one),
        (lambda x: torch.nn.functional.leaky_relu(x, 0.25), 0.25 * one),
        (lambda x: torch.nn.functional.prelu(x, leaks), leaks.expand(3, 5)),
    ):
        coefficients = torch.stack([one, second, 0 * one, 0 * one], 1)
        expected = with_gradients(function, x, (), grad)
        actual = with_gradients(lambda x, c=coefficients: ops.dyrelu(x, c), x, (), grad)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    excitation = random_tensor((3, 5), dtype, device).sigmoid()
    y = ops.dyrelu(x, torch.stack([excitation, 0 * one], 1))
    assert_near(y, x.double() * excitation.double()[:, :, None, None], TOLERANCES[dtype].elements)


def test_xor(device):
    """Section 3.2, Eq. 3: one linear layer, then one function whose slope is its input."""
    points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], device=device)
    z = points @ torch.tensor([[1.0], [-1.0]], device=device)
    coefficients = torch.stack([z, torch.zeros_like(z)], 1)
    assert ops.dyrelu(z, coefficients).flatten().tolist() == [0, 1, 1, 0]


def test_attention_multiplies_slopes_and_intercepts(device):
    """Section 4.1: with positive attention the product with the maximum is the same."""
    x, (c, attention), _ = make((2, 5, 3, 4), 1, 3, True, True, torch.float64, device)
    slopes, intercepts = (c[..., None, None] * attention.unsqueeze(1)).chunk(2, 1)
    expected = (slopes * x.unsqueeze(1) + intercepts).amax(1)
    assert_near(ops.dyrelu(x, c, attention), expected, 1e-15)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_nan_and_infinity(dtype, device):
    for layout, setting in itertools.product(('nchw', 'channels_last'), SETTINGS):
        x, parameters, grad = make((2, 36, 5, 7), 1, *setting, dtype, device)
        x, grad = SAMPLES[layout].place(x), SAMPLES[layout].place(grad)
        clean = call(ops.dyrelu, 1)(x, *parameters)
        for bad in (NAN, INF, -INF):
            spoilt = x.clone()
            spoilt[1, :, 2, 3] = bad
            y, gx, *grads = with_gradients(call(ops.dyrelu, 1), spoilt, parameters, grad)
            where = torch.zeros_like(x, dtype=torch.bool)
            where[1, :, 2, 3] = True
            assert torch.equal(y[~where], clean[~where])
            exact = reference.dyrelu(spoilt.cpu().double(), *(p.cpu().double() for p in parameters))
            assert torch.equal(y.cpu().isnan(), exact.isnan())
            assert torch.equal(y.cpu().isfinite(), exact.isfinite())
            assert gx[~where].isfinite().all()
            if bad is NAN:
                assert y[where].isnan().all()
                # One of the sample's gradients shows it; the other samples' are untouched.
                assert not grads[0][1].isfinite().all()
            assert all(g[0].isfinite().all() for g in grads)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_infinity_times_a_slope_of_zero(dtype, device):
    """Is NaN, as in the formula, whichever function's slope it is."""
    x = torch.full((1, 1, 40), INF, dtype=dtype, device=device)
    kind = parameter_dtype(dtype)
    for slopes in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0, 1.0)):
        coefficients = row(*slopes, *[0.0] * len(slopes), dtype=kind, device=device)
        for function in (ops.dyrelu, reference.dyrelu):
            assert function(x, coefficients).isnan().all()
    assert (ops.dyrelu(x, row(1.0, -1.0, 0.0, 0.0, dtype=kind, device=device)) == INF).all()


def test_errors():
    x = torch.randn(2, 6, 4, 4)
    good = torch.ones(2, 4, 6)
    cases = [
        ((x, good[:1]), {}, r'coefficients must have shape .* B=2 and C=6'),
        ((x, good[..., :3]), {}, r'got \(2, 4, 3\)'),
        ((x, good[:, :0]), {}, 'coefficients must have shape'),
        ((x, good[:, :3]), {}, 'coefficients must have shape'),
        ((x, good, torch.ones(2, 6, 4, 4)), {}, r'attention must have shape \(2, 1, 4, 4\)'),
        ((x, good), dict(channel_dim=0), 'other than 0, which holds the samples'),
        ((x, good), dict(channel_dim=4), 'channel_dim=4 must be a dimension'),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            ops.dyrelu(*arguments, **options)
    with pytest.raises(TypeError, match=r'dyrelu: x must be a floating-point tensor'):
        ops.dyrelu(x.long(), good)
    with pytest.raises(ValueError, match=r'weight must have shape \(6,\)'):
        ops.dyrelu_squeeze(x, torch.ones(5))
    with pytest.raises(ValueError, match='channel_dim=-4'):
        ops.dyrelu_squeeze(x, channel_dim=-4)
    with pytest.raises(TypeError, match='dyrelu_squeeze'):
        ops.dyrelu_squeeze(x.long())
