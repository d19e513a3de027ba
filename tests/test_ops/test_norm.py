# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every elementwise op with a normalisation in front, against the reference in float64."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmact.ops import has_kernel
from mmact.ops.norm import moments, with_norm

from .cases import CASES, _pwlu
from .test_elementwise import SOME_CASES
from .utils import generator, needs_opcheck, random_tensor

NAMES = SOME_CASES
#: shape, memory format; sizes of runs and rows off the vector's width and beyond a chunk.
SHAPES = {
    'planes': ((3, 6, 5, 7), torch.contiguous_format),
    'one sample': ((1, 6, 9, 9), torch.contiguous_format),
    'a chunk and more': ((2, 3, 130, 127), torch.contiguous_format),
    'channels_last': ((3, 18, 5, 7), torch.channels_last),
    'many rows': ((2, 3, 61, 67), torch.channels_last),
    'tokens': ((300, 33), torch.contiguous_format),
    'sequence': ((2, 9, 31), torch.contiguous_format),
    'one channel': ((4, 1, 6, 6), torch.contiguous_format),
}
needs_kernels = pytest.mark.skipif(not has_kernel('pwlu_norm', 'cpu'), reason='no CPU kernels')


def groups_of(case, channels):
    kinds = dict(layer=1, channel=channels, group=channels // 3 if channels % 3 == 0 else 1)
    return sorted({kinds[kind] for kind in case.groups})


def make(
    name,
    shape,
    memory_format,
    groups,
    dtype,
    affine=True,
    residual=True,
    constant=False,
    device='cpu',
):
    """The arguments of NAME_norm, a gradient of its result, and how many tensors the op has."""
    case, c = CASES[name], shape[1]
    g = generator(5)

    def tensor(seed):
        t = 1.5 * random_tensor(shape, seed=seed) + 0.3
        return t.to(device, dtype).contiguous(memory_format=memory_format)

    x, r, grad = tensor(1), tensor(2) if residual else None, tensor(3)
    weight, bias = torch.rand(c, generator=g) + 0.5, torch.randn(c, generator=g)
    affine = [t.to(device).double() for t in (weight, bias)] if affine else [None, None]
    mean, var = moments(x.double())
    if constant:
        mean, var = mean + 0.2, var * 1.3
    p = case.make(groups, torch.float64, device)
    settings = case.raw(x, *p, channel_dim=1, **case._on(x.device))
    count = 1 + len([a for a in settings if a is None or isinstance(a, torch.Tensor)])
    return [x, mean, var, *affine, r, *settings, 1e-5, constant], grad, count


def run(name, arguments, grad):
    """The result, and the gradients of all tensors that it has a way to."""
    inputs = [
        a.detach().clone().requires_grad_()
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for a in arguments
    ]
    y = getattr(torch.ops.mmact, f'{CASES[name].op}_norm')(*inputs)
    y.backward(grad)
    return y.detach(), [getattr(a, 'grad', None) for a in inputs]


def expected(name, arguments, grad, count):
    """The same by autograd through the reference, in float64."""
    from mmact.ops import _elementwise

    reference = _elementwise._OPS[CASES[name].op].reference
    forward, _ = with_norm(reference, None, count)
    inputs = [
        a.detach().cpu().double().requires_grad_()
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for a in arguments
    ]
    y = forward(*(a.cpu() if isinstance(a, torch.Tensor) else a for a in inputs))
    y.backward(grad.cpu().double())
    return y.detach(), [getattr(a, 'grad', None) for a in inputs]


def compare(name, arguments, grad, count, tolerance, average=False):
    y, grads = run(name, arguments, grad)
    exact, exact_grads = expected(name, arguments, grad, count)
    assert y.stride() == torch.empty_like(arguments[0]).stride()
    for i, (a, b) in enumerate([(y, exact), *zip(grads, exact_grads, strict=True)]):
        if b is None or a is None:
            # mean and var: constants, or a part of the way to x.
            assert a is None, i
            assert b is None or i in (2, 3) or not b.any(), i
            continue
        if CASES[name].op == 'cpab' and i == 8:
            continue  # of the table, whose entries are not independent: test_fusion has theta's
        error = (a.cpu().double() - b).abs()
        scale = b.abs().mean() + 1e-2
        assert (error.mean() if average else error.max()) <= tolerance * scale, (i, error.max())


@needs_kernels
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_kernel_equals_the_reference(name, shape, device):
    size, memory_format = SHAPES[shape]
    for groups in groups_of(CASES[name], size[1]):
        for k, (affine, residual, constant) in enumerate(
            [(True, True, False), (True, False, True), (False, True, True), (True, False, False)]
        ):
            if k > 1 and groups > 1:
                continue
            made = make(
                name, size, memory_format, groups, torch.float64, affine, residual, constant, device
            )
            # 3e-12 measured, on portable and AVX2, where a sum over 30,000 elements cancels.
            compare(name, *made, tolerance=1e-10)


@needs_kernels
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('shape', ['planes', 'a chunk and more', 'channels_last', 'tokens'])
@pytest.mark.parametrize('name', NAMES)
def test_smaller_dtypes(name, shape, dtype, device):
    """On average: an element that rounding moves across a breakpoint has another slope."""
    size, memory_format = SHAPES[shape]
    for groups in groups_of(CASES[name], size[1])[:2]:
        for constant in (False, True):
            made = make(name, size, memory_format, groups, dtype, constant=constant, device=device)
            tolerance = 1e-4 if dtype == torch.float32 else 2e-2
            compare(name, *made, tolerance=tolerance, average=True)


@needs_kernels
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_pwlu_of_more_segments_than_are_summed_at_a_time(dtype, device, monkeypatch):
    """On CUDA the sums of a pass fit into shared memory; the norm's are of the first pass alone."""
    monkeypatch.setitem(CASES, 'pwlu_500', _pwlu(500))
    for groups in (1, 6):
        made = make(
            'pwlu_500', (2, 6, 12, 13), torch.contiguous_format, groups, dtype, device=device
        )
        tolerance = 1e-9 if dtype == torch.float64 else 1e-3
        compare('pwlu_500', *made, tolerance=tolerance, average=True)


@needs_kernels
@pytest.mark.parametrize('name', NAMES)
def test_gradcheck_with_statistics_of_the_batch(name):
    case = CASES[name]
    op = getattr(torch.ops.mmact, f'{case.op}_norm')
    arguments, _, count = make(name, (3, 3, 2, 2), torch.contiguous_format, 1, torch.float64)
    x, _, _, weight, bias, residual, *rest = arguments
    tensors = [t for t in (x, weight, bias, residual, *rest[: count - 1]) if t is not None]
    tensors = [t.requires_grad_() if t.is_floating_point() else t for t in tensors]
    for t in {'cpab': tensors[4:6], 'piecewise_linear': tensors[4:5]}.get(case.op, []):
        t.requires_grad_(False)  # breakpoints, and reference points in the table

    def function(x, weight, bias, residual, *own):
        mean, var = moments(x.detach())
        own = [*own, *[None] * (count - 1 - len(own))]
        return op(x, mean, var, weight, bias, residual, *own, *rest[count - 1 :])

    assert torch.autograd.gradcheck(function, tensors, atol=1e-5)
    if case.op != 'pau' or not any(isinstance(a, float) and a > 0.01 for a in rest[count - 1 : -2]):
        assert torch.autograd.gradgradcheck(function, tensors, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize('shape', ['planes', 'a chunk and more', 'channels_last', 'many rows'])
@pytest.mark.parametrize('name', NAMES)
def test_same_bits_on_any_number_of_threads(name, shape):
    size, memory_format = SHAPES[shape]
    for groups in groups_of(CASES[name], size[1]):
        arguments, grad, _ = make(name, size, memory_format, groups, torch.float32)
        found = []
        threads = torch.get_num_threads()
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                y, grads = run(name, arguments, grad)
                statistics = torch.ops.mmact.batch_statistics(arguments[0], None, None, 0.1)
                found.append([y, *statistics, *(g for g in grads if g is not None)])
        finally:
            torch.set_num_threads(threads)
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize('name', NAMES)
def test_nan_stays_in_its_element_where_statistics_are_constants(name, device):
    arguments, grad, _ = make(
        name, (2, 3, 5, 5), torch.contiguous_format, 1, torch.float32, constant=True, device=device
    )
    arguments[0][1, 2, 3, 4] = torch.nan
    y, (gx, *_) = run(name, arguments, grad)
    assert y[1, 2, 3, 4].isnan()
    for t in (y, gx):  # what is linear has a slope at NaN too
        t[1, 2, 3, 4] = 0
        assert t.isfinite().all()


@needs_kernels
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', SHAPES)
def test_batch_statistics(shape, dtype, device):
    size, memory_format = SHAPES[shape]
    x = (random_tensor(size, seed=4) * 2 + 100).to(device, dtype)
    x = x.contiguous(memory_format=memory_format)
    count = x.numel() // size[1]
    exact_var, exact_mean = torch.var_mean(
        x.double(), [d for d in range(x.dim()) if d != 1], correction=0
    )
    running = [torch.randn(size[1], device=device), torch.rand(size[1], device=device)]
    updated = [t.clone() for t in running]
    mean, var = torch.ops.mmact.batch_statistics(x, *updated, 0.3)
    # The mean is 50 standard deviations from 0: sums of squares would cost float32 3 digits.
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6  # 2.6e-6 measured
    torch.testing.assert_close(mean.double(), exact_mean, rtol=tolerance, atol=0)
    torch.testing.assert_close(var.double(), exact_var, rtol=tolerance, atol=0)
    for old, new, value in zip(
        running, updated, (exact_mean, exact_var * count / (count - 1)), strict=True
    ):
        torch.testing.assert_close(new.double(), 0.7 * old + 0.3 * value, rtol=5e-6, atol=0)


@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize('shape', SHAPES)
def test_add_centered(shape, dtype, device):
    size, memory_format = SHAPES[shape]
    grad, x = (random_tensor(size, seed=seed).to(device, dtype) for seed in (4, 5))
    grad, x = (t.contiguous(memory_format=memory_format) for t in (grad, x))
    vectors = [random_tensor((size[1],), seed=seed).to(device) for seed in (6, 7, 8)]
    center, factor, shift = (v.view(-1, *[1] * (len(size) - 2)) for v in vectors)
    expected = grad.double() + factor.double() * (x.double() - center.double()) + shift.double()
    torch.ops.mmact.add_centered_(grad, x, *vectors)
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(grad.double(), expected, rtol=tolerance, atol=tolerance * 4)
    # Memory of another order than the gradient's is read in the gradient's.
    other = x.transpose(0, 1).contiguous().transpose(0, 1)
    again = grad.clone()
    torch.ops.mmact.add_centered_(again, other, *vectors)
    torch.ops.mmact.add_centered_(grad, x, *vectors)
    assert torch.equal(again, grad)


@needs_kernels
def test_statistics_of_non_finite_numbers(device):
    x = torch.randn(2, 4, 3, 3, device=device)
    x[0, 0, 0, 0], x[1, 1, 0, 0], x[0, 2, 0, 0] = torch.inf, torch.nan, -torch.inf
    mean, var = torch.ops.mmact.batch_statistics(x, None, None, 0.1)
    assert mean[0] == torch.inf
    assert mean[2] == -torch.inf
    assert mean[1].isnan()
    assert var[:3].isnan().all()
    torch.testing.assert_close(mean[3], x[:, 3].mean())


@needs_opcheck
@pytest.mark.parametrize('name', NAMES)
def test_opcheck(name):
    arguments, grad, _ = make(name, (2, 3, 4, 4), torch.channels_last, 3, torch.float32)
    if 'channel' not in CASES[name].groups:
        arguments, grad, _ = make(name, (2, 3, 4, 4), torch.channels_last, 1, torch.float32)
    op = getattr(torch.ops.mmact, f'{CASES[name].op}_norm')
    tests = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    torch.library.opcheck(op.default, arguments, test_utils=tests)
    torch.library.opcheck(
        getattr(torch.ops.mmact, f'{CASES[name].op}_norm_bwd').default,
        [grad, *arguments],
        test_utils=tests,
    )


@needs_kernels
@pytest.mark.parametrize('name', NAMES)
def test_shapes_and_strides_are_told(name):
    """Of every result, also where the residual's strides are not x's; opcheck looks at some."""
    groups = 3 if 'channel' in CASES[name].groups else 1
    arguments, grad, _ = make(name, (2, 3, 4, 4), torch.channels_last, groups, torch.float32)
    arguments = list(arguments)
    arguments[5] = torch.randn(2, 3, 4, 4)
    for suffix, given in (('norm', arguments), ('norm_bwd', [grad, *arguments])):
        op = getattr(torch.ops.mmact, f'{CASES[name].op}_{suffix}')
        results = op(*given)
        mode = FakeTensorMode()
        told = [mode.from_tensor(t.detach()) if torch.is_tensor(t) else t for t in given]
        with mode:
            fakes = op(*told)
        for fake, result in zip(
            *((r if isinstance(r, tuple) else (r,)) for r in (fakes, results)), strict=True
        ):
            assert (fake.dtype, fake.shape) == (result.dtype, result.shape)
            assert fake.stride() == result.stride()


@needs_kernels
@pytest.mark.parametrize('name', ['pwlu', 'pau'])
def test_wrong_shapes_are_refused(name):
    name = next(n for n in NAMES if CASES[n].op == name)
    arguments, _, _ = make(name, (2, 3, 4, 4), torch.contiguous_format, 1, torch.float32)
    op = getattr(torch.ops.mmact, f'{CASES[name].op}_norm')
    for place, wrong in ((1, torch.zeros(4)), (2, torch.zeros(3, 1)), (3, torch.zeros(2)),
                         (5, torch.zeros(2, 3, 4, 5))):  # fmt: skip
        given = list(arguments)
        given[place] = wrong
        with pytest.raises(RuntimeError, match='must'):
            op(*given)
