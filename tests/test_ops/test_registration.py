# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The elementwise ops as PyTorch sees them: schemas, fake kernels, compile, autocast, errors."""

import importlib.util
import itertools  # noqa: F401 a test in a process of its own uses it

import pytest
import torch
from marks import slow_unless
from torch._subclasses.fake_tensor import FakeTensorMode

from mmact import ops

from .cases import CASES
from .test_elementwise import SOME_CASES, arguments, run
from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_PARAMETERS,
    TORCH,
    assert_near,
    make_parameters,
    needs_opcheck,
    random_tensor,
    run_python,
    with_gradients,
)

OP_CASES = ('pwlu', 'pwlu_inference', *(n for n in SOME_CASES if CASES[n].op != 'pwlu'))


def ops_of(case):
    """The raw op, and its backward."""
    return tuple(getattr(torch.ops.mmact, f'{case.op}{end}').default for end in ('', '_bwd'))


def op_inputs(name, layout, dtype, device='cpu', groups=6):
    """(grad, arguments of the raw op)."""
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, layout, 6, groups, dtype, device)
    return grad, case.op_arguments(x, *parameters, channel_dim=dim)


def requiring_grad(given):
    for t in given:
        floating = isinstance(t, torch.Tensor) and t.is_floating_point()
        yield t.detach().requires_grad_() if floating else t


@needs_opcheck
@pytest.mark.parametrize(
    'layout',
    slow_unless(
        ('nchw', 'every_second').__contains__,
        ['nchw', 'channels_last', 'tokens', 'every_second', 'transposed', 'expanded'],
    ),
)
@pytest.mark.parametrize('name', OP_CASES)
def test_opcheck(name, layout, device):
    # Strides of half precisions are in the test below, in all layouts.
    for dtype in (torch.float32, torch.bfloat16)[: 2 if layout == 'nchw' else 1]:
        grad, given = op_inputs(name, layout, dtype, device)
        forward, backward = ops_of(CASES[name])
        torch.library.opcheck(forward, tuple(requiring_grad(given)))
        # Without requires_grad: the op refuses second derivatives.
        torch.library.opcheck(backward, (grad, *given))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', OP_CASES)
def test_fake_results_have_the_strides_of_real_ones(name, dtype):
    """torch.compile lays out memory by what the fake kernels promise."""
    forward, backward = ops_of(CASES[name])
    for layout in LAYOUTS:
        grad, given = op_inputs(name, layout, dtype, groups=1)
        # Views of parameters come from weight sharing; of every second, too.
        given = [
            torch.stack([t, t], -1)[..., 0] if isinstance(t, torch.Tensor) and i else t
            for i, t in enumerate(given)
        ]
        if LAYOUTS[layout].channel_dim is None:
            given[0] = given[0].reshape(())
        real = (forward(*given), *backward(grad, *given))
        with FakeTensorMode() as mode:
            grad, *given = (
                mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in (grad, *given)
            )
            fake = (forward(*given), *backward(grad, *given))
        for a, b in zip(real, fake, strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype), layout


@pytest.mark.parametrize('name', OP_CASES)
def test_meta_device(name):
    _, given = op_inputs(name, 'channels_last', torch.float32)
    given = [t.to('meta') if isinstance(t, torch.Tensor) else t for t in given]
    y = ops_of(CASES[name])[0](*given)
    assert y.device.type == 'meta'
    assert y.is_contiguous(memory_format=torch.channels_last)


ON_GPU = (pytest.mark.cuda, pytest.mark.gpu_only)


@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=ON_GPU)])
@pytest.mark.parametrize('name', ['arelu', *OP_CASES])
def test_compile_without_graph_breaks_and_with_changing_shapes(name, backend):
    if backend == 'inductor' and importlib.util.find_spec('triton') is None:
        pytest.skip('inductor needs Triton for GPUs')
    torch._dynamo.reset()  # the function below is another one for each case, of the same code
    device = 'cuda' if backend == 'inductor' else 'cpu'
    case = CASES[name]
    parameters = case.make(1, torch.float32, device)

    def function(x, *p):
        return case.call(x * 2, *p, channel_dim=1) + 1

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    for layout, shape in (('nchw', (2, 3, 5, 5)), ('channels_last', (4, 3, 6, 2))):
        place = LAYOUTS[layout].place
        x = place(case.inputs(shape, parameters, 1, torch.float32, device, 1))
        grad = place(random_tensor(shape, torch.float32, device, seed=2))
        actual = with_gradients(compiled, x, parameters, grad)
        expected = with_gradients(function, x, parameters, grad)
        for a, b in zip(actual, expected, strict=True):
            assert_near(a, b, 1e-6 if backend == 'inductor' else 0)


@pytest.mark.skipif(TORCH < (2, 2), reason='torch.export has no Dim before torch 2.2')
@pytest.mark.parametrize('name', OP_CASES)
def test_torch_export_keeps_the_op(name):
    case = CASES[name]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.ParameterList(case.make(3, torch.float32))

        def forward(self, x):
            return case.call(x * 2, *self.values, channel_dim=1)

    model = Model()
    batch = torch.export.Dim('batch', min=1, max=64)
    x = random_tensor((2, 3, 4, 4), torch.float32)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert ops_of(case)[0] in {node.target for node in program.graph.nodes}
    x = random_tensor((5, 3, 4, 4), torch.float32, seed=1)
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', OP_CASES)
def test_autocast_leaves_dtypes_alone(name, dtype, device):
    """x comes as the layer before made it, parameters stay float32: y is like x, no casts."""
    case = CASES[name]
    parameters = case.make(3, torch.float32, device)
    x = case.inputs((2, 3, 5), parameters, 1, dtype, device, 1)
    expected = run(case, x, parameters, x, 1)
    with torch.autocast(device, dtype=torch.bfloat16):
        actual = run(case, x, parameters, x, 1)
    assert actual[0].dtype == actual[1].dtype == dtype
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize('name', OP_CASES)
def test_inference_mode_and_no_grad(name):
    case = CASES[name]
    x, parameters, _, dim = arguments(case, 'nchw', 3, 3, torch.float32)
    parameters = [p.requires_grad_() for p in parameters]
    expected = case.call(x, *parameters, channel_dim=dim).detach()
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            y = case.call(x, *parameters, channel_dim=dim)
        assert not y.requires_grad
        assert torch.equal(y, expected)


@pytest.mark.parametrize('name', OP_CASES)
def test_second_derivatives(name):
    """The op's are its reference's; the op that backward is made of has none, and says so."""
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, 'nchw', 3, 1, torch.float64)
    leaf = x.clone().requires_grad_()
    (gx,) = torch.autograd.grad(
        case.call(leaf, *parameters, channel_dim=dim).square().sum(), leaf, create_graph=True
    )
    gx.sum().backward()
    assert leaf.grad.abs().max() > 0.1
    given = case.op_arguments(x.requires_grad_(), *parameters, channel_dim=dim)
    gx = ops_of(case)[1](grad, *given)[0]
    with pytest.raises(RuntimeError, match='differentiable once'):
        gx.sum().backward()


# Errors -------------------------------------------------------------------------------------------


def wrong_versions(t):
    """Tensors that cannot stand for a parameter t of three groups."""
    yield from (t.new_zeros(2), t.new_zeros(()), t.new_zeros(3, 1, 1, 1), t[:2], t.new_zeros(0))
    if t.dim() > 1:
        yield from (t[:0], t[0])
    if t.is_floating_point():
        yield t.long()


@pytest.mark.parametrize('name', OP_CASES)
def test_direct_calls_of_wrong_shape_raise(name):
    """Ops called through torch.ops must not read out of range either."""
    case = CASES[name]
    x, parameters, grad, dim = arguments(case, 'nchw', 3, 3, torch.float32)
    forward, backward = ops_of(case)
    given = case.op_arguments(x, *parameters, channel_dim=dim)
    calls = [(0, x.long())]
    if 'channel' in case.groups:  # else any x will do, and parameters are one number each
        where = given.index(dim, sum(isinstance(t, torch.Tensor) or t is None for t in given))
        calls += [(0, wrong) for wrong in (torch.zeros(2, 4, 5), torch.zeros(()))]
        calls += [(where, wrong) for wrong in (-1, 4, 10**9)]
    for i, t in enumerate(given[1:], 1):
        if isinstance(t, torch.Tensor) and t.numel() > 1:
            calls += [(i, wrong) for wrong in wrong_versions(t)]
        elif isinstance(t, torch.Tensor) and 'channel' not in case.groups:
            calls += [(i, wrong) for wrong in (torch.zeros(2), torch.zeros(0), t.long())]
    for i, wrong in calls:
        inputs = [*given[:i], wrong, *given[i + 1 :]]
        for function in (lambda g: forward(*g), lambda g: backward(g[0], *g)):
            with pytest.raises(RuntimeError, match=case.op) as caught:
                function(inputs)
            assert 'Expected' not in str(caught.value), f'argument {i} was not foreseen'
    for wrong in (grad[:1], grad.flatten(), torch.zeros(()), grad.double()):
        with pytest.raises(RuntimeError, match='grad'):
            backward(wrong, *given)
    assert forward(*given).shape == x.shape  # an error leaves the library usable


def test_unsupported_floating_dtypes_are_refused():
    """float8 is floating-point to PyTorch; read as something wider it would be out of range."""
    result = run_python(
        'from test_ops.test_registration import *\n'
        'for name, dtype in itertools.product(\n'
        '    OP_CASES, (torch.float8_e4m3fn, torch.float8_e5m2)\n'
        '):\n'
        '    forward, backward = ops_of(CASES[name])\n'
        '    _, (x, *given) = op_inputs(name, "nchw", torch.float32)\n'
        '    x = x.to(dtype)\n'
        '    for call in (lambda: forward(x, *given), lambda: backward(x, x, *given)):\n'
        '        with pytest.raises((TypeError, RuntimeError), match="loat"):\n'
        '            call()\n'
    )
    assert result.returncode == 0, result.stderr


def call(x_shape=(2, 3, 4), x_dtype=torch.float32, channel_dim=1, **replaced):
    arguments = dict(zip(PWLU_PARAMETERS, make_parameters(3, 5, torch.float32), strict=True))
    arguments.update(replaced)
    return ops.pwlu(torch.zeros(x_shape, dtype=x_dtype), **arguments, channel_dim=channel_dim)


@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        (dict(x_dtype=torch.int64), TypeError, ['x ', 'floating', 'int64']),
        (dict(x_dtype=torch.complex64), TypeError, ['x ', 'floating', 'complex64']),
        (dict(x_shape=(2, 4, 3)), ValueError, ['4 channels', 'dimension 1', '(2, 4, 3)', '3']),
        (dict(x_shape=(2, 4, 3)), ValueError, ['num_channels', 'channel_dim']),
        (dict(x_shape=(2, 4, 3), channel_dim=0), ValueError, ['2 channels', 'dimension 0']),
        (dict(x_shape=(3,)), ValueError, ['channel_dim=1', '(3,)']),
        (dict(x_shape=()), ValueError, ['channel_dim=1', '()']),
        (dict(channel_dim=3), ValueError, ['channel_dim=3', '(2, 3, 4)']),
        (dict(channel_dim=-4), ValueError, ['channel_dim=-4', '(2, 3, 4)']),
        (dict(points=torch.zeros(3)), ValueError, ['points', '(G, N + 1)', '(3,)']),
        (dict(points=torch.zeros(3, 1)), ValueError, ['points', '(3, 1)']),
        (dict(points=torch.zeros(4, 6)), ValueError, ['left_bound', '(4,)', '(3,)']),
        (dict(left_bound=torch.zeros(2)), ValueError, ['left_bound', '(3,)', '(2,)']),
        (dict(right_bound=torch.zeros(3, 1)), ValueError, ['right_bound', '(3,)', '(3, 1)']),
        (dict(left_slope=torch.zeros(())), ValueError, ['left_slope', '(3,)', '()']),
        (dict(right_slope=torch.zeros(1)), ValueError, ['right_slope', '(3,)', '(1,)']),
        (dict(points=torch.zeros(0, 6), left_bound=torch.zeros(0)), ValueError, ['points']),
    ],
)
def test_errors_name_the_argument(arguments, error, words):
    with pytest.raises(error) as caught:
        call(**arguments)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize('name', PWLU_PARAMETERS)
def test_integer_parameters_are_refused(name):
    value = make_parameters(3, 5)[PWLU_PARAMETERS.index(name)].long()
    with pytest.raises((TypeError, RuntimeError), match='float'):
        call(**{name: value})
