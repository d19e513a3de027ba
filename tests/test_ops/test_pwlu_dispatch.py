# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact::pwlu as PyTorch sees it: schemas, fake kernels, compile, autocast, errors, fallback."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmact import ops
from mmact.ops import has_kernel

from .utils import (
    DTYPES,
    LAYOUTS,
    PWLU_PARAMETERS,
    TORCH,
    between_breakpoints,
    make_parameters,
    needs_opcheck,
    random_tensor,
    run_python,
    with_gradients,
)

LAYOUTS_OF_OPCHECK = ('nchw', 'channels_last', 'tokens', 'every_second', 'transposed', 'expanded')


def sample(layout, dtype=torch.float32, requires_grad=True, channels=3):
    kind = LAYOUTS[layout]
    parameters = make_parameters(channels, 5, dtype)
    x = kind.place(between_breakpoints(kind.shape(channels), parameters, kind.channel_dim, dtype))
    dim = kind.channel_dim % x.dim()
    return [t.detach().requires_grad_(requires_grad) for t in (x, *parameters)], dim


# Registration -------------------------------------------------------------------------------------


def test_cpu_kernels_are_compiled():
    """The suite would otherwise compare the reference with itself."""
    assert has_kernel('pwlu', 'cpu')
    assert has_kernel('pwlu_bwd', 'cpu')
    assert not has_kernel('pwlu', 'mps')


@needs_opcheck
@pytest.mark.parametrize('layout', LAYOUTS_OF_OPCHECK)
def test_opcheck_forward(layout):
    for dtype in (torch.float32, torch.bfloat16):
        inputs, dim = sample(layout, dtype)
        for inference in (False, True):
            torch.library.opcheck(torch.ops.mmact.pwlu.default, (*inputs, dim, inference))


@needs_opcheck
@pytest.mark.parametrize('layout', LAYOUTS_OF_OPCHECK)
def test_opcheck_backward(layout):
    """Without requires_grad: the op refuses second derivatives (see test_pwlu_gradients.py)."""
    inputs, dim = sample(layout, requires_grad=False)
    for grad in (inputs[0], torch.ones(()).expand_as(inputs[0])):
        torch.library.opcheck(torch.ops.mmact.pwlu_bwd.default, (grad, *inputs, dim, False))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_fake_results_have_the_strides_of_real_ones(layout, dtype):
    """torch.compile lays out memory by what the fake kernels promise."""
    kind = LAYOUTS[layout]
    channels = 1 if kind.channel_dim is None else 4
    parameters = make_parameters(channels, 5, torch.float32)
    # Views of parameters come from weight sharing; of every second, too.
    parameters = [torch.stack([p, p], -1)[..., 0] for p in parameters]
    x = kind.place(torch.zeros(kind.shape(channels), dtype=dtype))
    dim = 0 if kind.channel_dim is None else kind.channel_dim % x.dim()

    def run(x, *parameters):
        y = torch.ops.mmact.pwlu(x, *parameters, dim, False)
        return (y, *torch.ops.mmact.pwlu_bwd(y, x, *parameters, dim, False))

    real = run(x, *parameters)
    with FakeTensorMode() as mode:
        fake = run(*(mode.from_tensor(t) for t in (x, *parameters)))
    for name, a, b in zip(('y', 'x', *PWLU_PARAMETERS), real, fake, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype), name


def test_meta_device():
    inputs, dim = sample('channels_last')
    y = ops.pwlu(*(t.detach().to('meta') for t in inputs), channel_dim=dim)
    assert y.device.type == 'meta'
    assert y.is_contiguous(memory_format=torch.channels_last)


# Transformations ----------------------------------------------------------------------------------


def test_compile_without_graph_breaks_and_with_changing_shapes():
    parameters = make_parameters(3, 8, torch.float32)
    compiled = torch.compile(ops.pwlu, fullgraph=True, backend='aot_eager', dynamic=True)
    for layout, shape in (('nchw', (2, 3, 5, 5)), ('nchw', (4, 3, 6, 2)), ('nchw', (1, 3, 1, 1))):
        x = LAYOUTS[layout].place(between_breakpoints(shape, parameters, 1, torch.float32))
        grad = random_tensor(shape, torch.float32, seed=2)
        actual = with_gradients(compiled, x, parameters, grad)
        for a, b in zip(actual, with_gradients(ops.pwlu, x, parameters, grad), strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(TORCH < (2, 2), reason='torch.export has no Dim before torch 2.2')
def test_torch_export_keeps_the_op():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.ParameterList(make_parameters(3, 8, torch.float32))

        def forward(self, x):
            return ops.pwlu(x * 2, *self.values, inference=True)

    model = Model()
    x = random_tensor((2, 3, 4, 4), torch.float32)
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert torch.ops.mmact.pwlu.default in {node.target for node in program.graph.nodes}
    x = random_tensor((5, 3, 4, 4), torch.float32, seed=1)
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_autocast_leaves_dtypes_alone(dtype):
    """x comes as the layer before made it, parameters stay float32: y is like x, no casts."""
    parameters = make_parameters(3, 8, torch.float32)
    x = between_breakpoints((2, 3, 5), parameters, 1, dtype)
    expected = with_gradients(ops.pwlu, x, parameters, x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = with_gradients(ops.pwlu, x, parameters, x)
    assert actual[0].dtype == actual[1].dtype == dtype
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_inference_mode_and_no_grad():
    inputs, dim = sample('nchw')
    expected = ops.pwlu(*inputs, channel_dim=dim).detach()
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            y = ops.pwlu(*inputs, channel_dim=dim)
        assert not y.requires_grad
        assert torch.equal(y, expected)


# Errors -------------------------------------------------------------------------------------------


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


def test_unsupported_floating_dtypes_are_refused():
    """float8 is floating-point to PyTorch; read as something wider it would be out of range."""
    result = run_python(
        'import torch; from mmact import ops; from test_ops.utils import make_parameters\n'
        'p = make_parameters(1, 4, torch.float32)\n'
        'for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):\n'
        '    x = torch.zeros(64).to(dtype)\n'
        '    for call in (lambda: ops.pwlu(x, *p), lambda: torch.ops.mmact.pwlu(x, *p, 0, False),\n'
        '                 lambda: torch.ops.mmact.pwlu_bwd(x, x, *p, 0, False)):\n'
        '        try:\n'
        '            call()\n'
        '        except (TypeError, RuntimeError) as error:\n'
        '            assert "loat" in str(error), error\n'
        '        else:\n'
        '            raise SystemExit(f"{dtype} was accepted")'
    )
    assert result.returncode == 0, result.stderr


def unchecked(x, parameters, channel_dim=1):
    """The op past the checks of mmact.ops.pwlu, and its backward."""
    return [
        lambda: torch.ops.mmact.pwlu(x, *parameters, channel_dim, False),
        lambda: torch.ops.mmact.pwlu_bwd(x, x, *parameters, channel_dim, False),
    ]


def test_direct_calls_of_wrong_shape_raise():
    """What torch.ops reaches must not read out of range either."""
    good = list(make_parameters(3, 5, torch.float32))
    x = torch.zeros(2, 3, 4)
    cases = [
        (torch.zeros(2, 4, 3), good, 1),
        (x, good, 3),
        (x, good, -1),
        (x, good, 10**9),
        (torch.zeros(()), good, 0),
        (x.long(), good, 1),
        (x, [*good[:4], torch.zeros(3)], 1),
        (x, [*good[:4], torch.zeros(3, 1)], 1),
        (x, [*good[:4], torch.zeros(3, 0)], 1),
        (x, [*good[:4], torch.zeros(2, 6)], 1),
        (x, [*good[:4], good[4].long()], 1),
        (x, [torch.zeros(0)] * 4 + [torch.zeros(0, 6)], 1),
    ]
    for i in range(4):
        for wrong in (torch.zeros(2), torch.zeros(3, 1), torch.zeros(()), good[i].long()):
            cases.append((x, [wrong if j == i else p for j, p in enumerate(good)], 1))
    for number, case in enumerate(cases):
        for function in unchecked(*case):
            with pytest.raises(RuntimeError, match='pwlu') as caught:
                function()
            assert 'Expected' not in str(caught.value), f'case {number} was not foreseen'


def test_direct_backward_checks_the_gradient():
    x, parameters = torch.zeros(2, 3, 4), make_parameters(3, 5, torch.float32)
    for grad in (torch.zeros(2, 3, 5), torch.zeros(24), torch.zeros(()), x.double()):
        with pytest.raises(RuntimeError, match='grad'):
            torch.ops.mmact.pwlu_bwd(grad, x, *parameters, 1, False)


def test_a_kernel_error_leaves_the_library_usable():
    with pytest.raises(RuntimeError):
        torch.ops.mmact.pwlu(torch.zeros(2, 4), *make_parameters(3, 5), 1, False)
    assert call().shape == (2, 3, 4)


# Without the compiled extension -------------------------------------------------------------------


def test_eager_fallback_warns_once_and_is_right():
    result = run_python(
        'import sys, warnings\n'
        'sys.modules["mmact._C"] = None  # import raises ImportError, as for a missing file\n'
        'import torch\n'
        'from mmact import ops\n'
        'from test_ops import test_pwlu as t, utils as u\n'
        'assert not ops.has_kernel("pwlu", "cpu") and not ops.has_kernel("pwlu_bwd", "cpu")\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    warnings.simplefilter("always")\n'
        '    u.PWLU_TOLERANCES[torch.float32] = u.Tolerance(1e-4, 1e-4)\n'
        '    for half in (torch.float16, torch.bfloat16):\n'
        '        u.PWLU_TOLERANCES[half] = u.Tolerance(u.PWLU_TOLERANCES[half].elements, 1e-4)\n'
        '    for dtype in u.DTYPES:\n'
        '        for layout in u.LAYOUTS:\n'
        '            x, p, grad = t.arguments(layout, 3, 5, dtype)\n'
        '            u.compare_pwlu(x, p, grad, u.LAYOUTS[layout].channel_dim, what=layout)\n'
        'ours = [str(w.message) for w in caught if "mmact" in str(w.message)]\n'
        'assert len(ours) == 1, ours\n'
        'for word in ("cpu", "pip install", "no-build-isolation", "_C"):\n'
        '    assert word in ours[0], ours[0]\n'
    )
    assert result.returncode == 0, result.stderr
