# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The PWLU layer as a module: construction, function, state, dtypes and devices."""

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import LAYOUTS, assert_near, random_tensor
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmact.activations import PWLU, Activation, unresolved

from .utils import expected_output, make_pwlu, randomise

# Construction -------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_groups', [None, 1])
def test_parameters_and_buffers(num_groups):
    act = PWLU(num_channels=5, num_intervals=6, num_groups=num_groups)
    c = num_groups or 5
    assert {name: tuple(p.shape) for name, p in act.named_parameters()} == {
        'left_bound': (c,),
        'right_bound': (c,),
        'left_slope': (c,),
        'right_slope': (c,),
        'points': (c * 7,),
    }
    assert {name: (tuple(b.shape), b.dtype) for name, b in act.named_buffers()} == {
        'running_mean': ((c,), torch.float32),
        'running_std': ((c,), torch.float32),
        'num_batches_tracked': ((), torch.int64),
        'phase_id': ((), torch.int64),
    }
    assert all(p.requires_grad and p.is_leaf for p in act.parameters())
    assert isinstance(act, Activation)
    assert act.phase == 'learn'
    assert act.training


def test_defaults_are_the_papers():
    """Section 4.1 and 4.5: N = 16; symmetric bounds; momentum 0.9 as in Eq. 5."""
    act = PWLU(1)
    assert act.num_intervals == 16
    assert (act.left_bound.item(), act.right_bound.item()) == (-3.0, 3.0)
    assert act.stat_momentum == 0.9


def test_layer_wise_needs_no_channels():
    act = PWLU(num_groups=1)
    assert act.resolved
    assert unresolved(act) == []
    for shape in ((), (7,), (2, 5), (2, 5, 3, 3), (1, 2, 3, 4, 5)):
        assert torch.equal(act(torch.ones(shape)), torch.ones(shape))


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (dict(num_channels=0), 'num_channels'),
        (dict(num_channels=-3), 'num_channels'),
        (dict(num_channels=2.0), 'num_channels'),
        (dict(num_channels='8'), 'num_channels'),
        (dict(num_channels=True), 'num_channels'),
        (dict(num_intervals=0), 'num_intervals'),
        (dict(num_intervals=-1), 'num_intervals'),
        (dict(num_intervals=8.0), 'num_intervals'),
        (dict(num_intervals='8'), 'num_intervals'),
        (dict(num_intervals=True), 'num_intervals'),
        (dict(num_intervals=None), 'num_intervals'),
        (dict(bounds=(3, -3)), 'bounds'),
        (dict(bounds=(1, 1)), 'bounds'),
        (dict(bounds=(0, 1e-9)), 'bounds'),
        (dict(bounds=(-math.inf, 3)), 'bounds'),
        (dict(bounds=(math.nan, 3)), 'bounds'),
        (dict(bounds=(-3,)), 'bounds'),
        (dict(bounds=(-3, 0, 3)), 'bounds'),
        (dict(bounds=3.0), 'bounds'),
        (dict(bounds=('a', 'b')), 'bounds'),
        (dict(bounds=None), 'bounds'),
        (dict(num_groups=0), 'num_groups'),
        (dict(num_groups=3), 'num_groups'),
        (dict(channel_dim=1.0), 'channel_dim'),
        (dict(channel_dim='last'), 'channel_dim'),
        (dict(channel_dim=True), 'channel_dim'),
        (dict(stat_momentum=1.0), 'stat_momentum'),
        (dict(stat_momentum=-0.1), 'stat_momentum'),
        (dict(stat_momentum=math.nan), 'stat_momentum'),
        (dict(stat_momentum='0.9'), 'stat_momentum'),
        (dict(stat_momentum=None), 'stat_momentum'),
    ],
)
def test_bad_arguments_are_named_with_the_value_seen(arguments, named):
    with pytest.raises(ValueError, match=named) as caught:
        PWLU(**{'num_channels': 4, **arguments})
    assert repr(arguments[named]) in str(caught.value)


def test_repr():
    for act in (PWLU(), PWLU(7), PWLU(num_groups=1), PWLU(7, channel_dim=-1)):
        text = repr(act)
        assert text.startswith('PWLU(')
        assert f'num_channels={act.num_channels}' in text
        assert f'phase={act.phase!r}' in text
    act = PWLU(3)
    act.start_collecting()
    assert "phase='collect'" in repr(nn.Sequential(act))


def test_inplace_is_accepted_and_writes_nothing():
    x = random_tensor((2, 4, 3), torch.float32)
    before = x.clone()
    PWLU(4, inplace=True)(x)
    assert torch.equal(x, before)


# The function -------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_intervals', [2, 4, 8, 16])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_starts_as_relu_to_the_bit(num_intervals, dtype):
    """All these lengths are exact in binary, so nothing rounds, in training and in evaluation."""
    act = PWLU(3, num_intervals=num_intervals)
    x = torch.linspace(-5.9, 5.9, 3001).to(dtype).expand(2, 3, 3001)
    assert torch.equal(act(x), F.relu(x))
    assert torch.equal(act.eval()(x), F.relu(x))


@pytest.mark.parametrize('num_intervals', [2, 6, 10, 30, 100])
@pytest.mark.parametrize('bounds', [(-3.0, 3.0), (-2.7, 2.7), (-0.1, 0.1), (-1e3, 1e3)])
def test_starts_as_relu_on_any_symmetric_bounds(num_intervals, bounds):
    act = PWLU(1, num_intervals=num_intervals, bounds=bounds)
    x = torch.linspace(-2.0 * bounds[1], 2.0 * bounds[1], 2001).view(-1, 1)
    for training in (True, False):
        y = act.train(training)(x)
        # The middle point is 0, and so is all to the left where rounding does not matter.
        left = x < -1e-6 * bounds[1]
        assert torch.equal(y[left], torch.zeros_like(y[left]))
        assert_near(y / bounds[1], F.relu(x) / bounds[1], 1e-6)
        assert torch.equal(
            act.rows('points')[0, : num_intervals // 2 + 1], torch.zeros(num_intervals // 2 + 1)
        )


@pytest.mark.parametrize('num_intervals', [1, 3, 15])
def test_odd_number_of_intervals_cuts_the_corner(num_intervals):
    """ReLU at every end; 0 lies in the middle of an interval of length d, where it is d / 4."""
    act = PWLU(1, num_intervals=num_intervals)
    ends = torch.linspace(-3, 3, num_intervals + 1)
    assert_near(act.rows('points').detach()[0], F.relu(ends), 1e-6)
    assert act(torch.zeros(1, 1)).item() == pytest.approx(6 / num_intervals / 4)
    outside = torch.tensor([[-8.0], [8.0]])
    assert torch.equal(act(outside), F.relu(outside))


@pytest.mark.parametrize('layout', [k for k, v in LAYOUTS.items() if v.channel_dim is not None])
@pytest.mark.parametrize('training', [True, False])
def test_every_layout_and_its_memory_format(layout, training):
    kind = LAYOUTS[layout]
    act = make_pwlu(6, channel_dim=kind.channel_dim).train(training)
    x = kind.place(random_tensor(kind.shape(6), torch.float32))
    y = act(x)
    assert_near(y, expected_output(act, x), 1e-5)
    assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_memory_format_is_kept_in_every_phase(phase):
    act = make_pwlu(6)
    set_phase(act, phase)
    for training in (True, False):
        x = random_tensor((2, 6, 4, 5), torch.float32).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        y = act.train(training)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.sum().backward()
        assert x.grad.is_contiguous(memory_format=torch.channels_last)


def set_phase(act, phase):
    if phase == 'collect':
        act.start_collecting()
    elif phase == 'fixed':
        act.freeze()
    assert act.phase == phase


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
@pytest.mark.parametrize('shape', [(0, 4), (0, 4, 3, 3), (2, 4, 0)])
def test_empty_batch(shape, phase):
    """An image without proposals: a result of its shape, gradients of zero, nothing counted."""
    act = make_pwlu()
    set_phase(act, phase)
    x = torch.empty(shape, requires_grad=True)
    y = act(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in act.parameters())
    assert act.num_batches_tracked == 0


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_non_finite_input_stays_in_its_element(bad, phase):
    act = make_pwlu()
    set_phase(act, phase)
    x = random_tensor((2, 4, 9), torch.float32)
    expected = act.eval()(x)
    x[1, 2, 3] = bad
    y = act(x)
    where = torch.zeros_like(x, dtype=torch.bool)
    where[1, 2, 3] = True
    assert torch.equal(y[~where], expected[~where])
    if not (phase == 'collect' and bad == -math.inf):  # ReLU of it is 0
        assert not y[where].isfinite().any()


@pytest.mark.parametrize(
    ('shape', 'channel_dim', 'words'),
    [
        ((2, 5, 3), None, ['4 channels', 'dimension 1', '(2, 5, 3)']),
        ((2, 5, 4), 1, ['4 channels', 'dimension 1', 'channel_dim']),
        ((2, 4, 3), -1, ['4 channels', 'dimension -1', '(2, 4, 3)']),
        ((4,), None, ['4 channels', '(4,)']),
        ((), None, ['4 channels', '()']),
        ((2, 4), 2, ['dimension 2', '(2, 4)']),
    ],
)
@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_wrong_inputs_are_refused_in_every_phase_of_training(phase, shape, channel_dim, words):
    act = PWLU(4, channel_dim=channel_dim)
    set_phase(act, phase)
    with pytest.raises(ValueError) as caught:
        act(torch.zeros(shape))
    for word in [*words, 'num_channels']:
        assert word in str(caught.value)


def test_a_single_channel_is_not_taken_for_layer_wise():
    """num_channels=1 is a promise about the input; to broadcast it would hide a mistake."""
    with pytest.raises(ValueError, match='1 channels'):
        PWLU(1)(torch.zeros(2, 3, 4))


def test_every_parameter_receives_a_gradient():
    """And all of x's do: the check that a learnable activation learns at all."""
    act = PWLU(4)
    x = (3 * random_tensor((64, 4, 8), torch.float32)).requires_grad_()
    (act(x) * random_tensor(x.shape, torch.float32, seed=1)).sum().backward()
    for name, parameter in act.named_parameters():
        # The first points only lie where no element may be; all channels must have some.
        assert parameter.grad.view(4, -1).abs().sum(1).min() > 0, name
    assert x.grad.abs().sum() > 0


def test_evaluation_has_gradients_too():
    """Fine-tuning with frozen statistics, and adversarial examples, differentiate in eval mode."""
    act = make_pwlu()
    x = (4 * random_tensor((8, 4, 9), torch.float32)).requires_grad_()
    results = []
    for training in (True, False):
        act.train(training)
        act.zero_grad()
        (gx,) = torch.autograd.grad(act(x).square().sum(), x, retain_graph=True)
        act(x).sum().backward()
        results.append([gx, *(p.grad for p in act.parameters())])
    for a, b in zip(*results, strict=True):
        assert_near(a, b, 1e-5)
        assert a.abs().sum() > 0


class OpsSeen(TorchDispatchMode):
    """Keeps the arguments of the mmact::pwlu calls within it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mmact.pwlu.default:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


def test_evaluation_uses_the_inference_form():
    """Section 4.3, without being asked for; its speed is the reason that it exists."""
    act = make_pwlu()
    x = random_tensor((3, 4), torch.float32)
    for training, phase in ((True, 'learn'), (False, 'learn'), (True, 'fixed'), (False, 'fixed')):
        set_phase(act, phase)
        with OpsSeen() as seen:
            act.train(training)(x)
        (arguments,) = seen.calls  # the dispatcher leaves inference out where it is False
        assert (arguments[7:] == (True,)) is not (training and phase == 'learn')


# State --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed', 'realigned'])
@pytest.mark.parametrize('other_phase', ['learn', 'collect', 'fixed'])
def test_state_dict_round_trip(phase, other_phase):
    """Function, statistics and phase come back, whatever state the other module was in."""
    act = make_pwlu(seed=1)
    x = random_tensor((8, 4, 5), torch.float32)
    if phase == 'realigned':
        act.start_collecting()
        act(x)
        act.realign()
    else:
        set_phase(act, phase)
        act(x)
    other = make_pwlu(seed=2)
    set_phase(other, other_phase)
    other.load_state_dict(act.state_dict())
    assert other.phase == act.phase
    for name, value in act.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for training in (True, False):
        assert torch.equal(other.train(training)(x), act.train(training)(x))
    assert torch.equal(other.running_mean, act.running_mean)


def test_state_survives_a_file_and_a_wrapper():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), PWLU())
    model[1].start_collecting()
    model(torch.randn(2, 3, 4, 4))
    file = io.BytesIO()
    torch.save(nn.Sequential(model).state_dict(), file)
    file.seek(0)
    other = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), PWLU()))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other[0][1].phase == 'collect'
    assert torch.equal(other[0][1].running_mean, model[1].running_mean)


def test_checkpoint_of_a_relu_network_loads_around_it():
    """strict=False with no entry of PWLU's leaves function and phase as they are."""
    act = make_pwlu()
    act.start_collecting()
    before = copy.deepcopy(act.state_dict())
    missing = act.load_state_dict({}, strict=False).missing_keys
    assert set(missing) == set(before)
    assert act.phase == 'collect'
    assert all(torch.equal(v, act.state_dict()[k]) for k, v in before.items())


def test_loading_another_number_of_channels_is_an_error():
    with pytest.raises(RuntimeError, match='size mismatch for points'):
        PWLU(4).load_state_dict(PWLU(5).state_dict())


def test_load_state_dict_with_assign():
    act, other = make_pwlu(seed=1), PWLU(4)
    act.freeze()
    other.load_state_dict(act.state_dict(), assign=True)
    x = random_tensor((3, 4), torch.float32)
    assert other.phase == 'fixed'
    assert torch.equal(other(x), act(x))


def copies(act):
    """The ways in which a module is copied."""
    file = io.BytesIO()
    torch.save(act, file)
    file.seek(0)
    yield 'deepcopy', copy.deepcopy(act)
    yield 'pickle', pickle.loads(pickle.dumps(act))
    yield 'torch.save', torch.load(file, weights_only=False)


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_copies_are_equal_and_independent(phase):
    model = nn.Sequential(nn.Linear(3, 4), PWLU())
    randomise(model[1])
    set_phase(model[1], phase)
    x = torch.randn(6, 3)
    # in the middle of training: with gradients, statistics, and a graph alive
    loss = model(x).sum()
    loss.backward()
    for way, other in copies(model):
        assert other[1].phase == phase, way
        model.eval(), other.eval()
        assert torch.equal(other(x), model(x)), way
        expected = model(x)
        with torch.no_grad():
            other[1].points += 1
            other[1].running_mean += 1
        assert torch.equal(model(x), expected), way
        if phase != 'collect':
            assert not torch.equal(other(x), expected), way
        assert not torch.equal(model[1].running_mean, other[1].running_mean)
        model.train()


# In evaluation the function is what the parameters say, at once -----------------------------------


def optimizer_step(act):
    optimizer = torch.optim.SGD(act.parameters(), lr=0.1)
    act(torch.randn(64, 4)).square().sum().backward()
    optimizer.step()
    return act


def realignment(act):
    act.start_collecting()
    act.train()(torch.randn(64, 4) * 2 + 1)
    act.realign()
    return act.eval()


def edit_data(act):
    act.rows('points').data.mul_(2)
    act.left_bound.data -= 1
    return act


def edit_in_place(act):
    with torch.no_grad():
        act.right_slope.fill_(-3)
    return act


def replace_parameter(act):
    act.points = nn.Parameter(act.points.detach() + 1)
    return act


def exchange_data(act):
    act.points.data = act.rows('points').data.flip(1).flatten()
    return act


def load(act):
    act.load_state_dict(make_pwlu(seed=9).state_dict())
    return act


CHANGES = {
    'load_state_dict': load,
    'assign': lambda act: act.load_state_dict(make_pwlu(seed=9).state_dict(), assign=True) and act,
    'optimizer step': optimizer_step,
    'realign': realignment,
    'deepcopy': lambda act: randomise(copy.deepcopy(act), 5),
    'in-place': edit_in_place,
    '.data': edit_data,
    '.data =': exchange_data,
    'new Parameter': replace_parameter,
    'double': lambda act: randomise(act.double(), 5),
    'bfloat16': lambda act: act.bfloat16(),
    'vector_to_parameters': lambda act: (
        nn.utils.vector_to_parameters(torch.rand(4 * 21).cumsum(0), act.parameters()) or act
    ),
}


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('phase', ['learn', 'fixed'])
def test_evaluation_is_never_stale(phase, change):
    torch.manual_seed(0)
    act = make_pwlu()
    set_phase(act, phase)
    act.eval()
    x = 4 * random_tensor((50, 4), torch.float32)
    before = act(x)
    changed = CHANGES[change](act)
    assert not changed.training or change == 'deepcopy'
    after = changed.eval()(x)
    if change == 'optimizer step' and phase == 'fixed':
        assert torch.equal(after, before)
    else:
        assert not torch.equal(after, before), 'the change changed nothing'
    assert_near(after, expected_output(changed, x), 1e-4)


# Devices and dtypes -------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_module_in_another_dtype(dtype):
    act = make_pwlu().to(dtype)
    assert {p.dtype for p in act.parameters()} == {dtype}
    assert act.running_mean.dtype == act.running_std.dtype == dtype
    assert act.num_batches_tracked.dtype == torch.int64
    assert act.phase_id.dtype == torch.int64
    x = random_tensor((8, 4, 9), dtype).requires_grad_()
    tolerance = {2: 2**-8, 8: 1e-13}[dtype.itemsize]
    for training in (True, False):
        y = act.train(training)(x)
        assert y.dtype == dtype
        assert_near(y, expected_output(act, x), tolerance)
    y.sum().backward()
    assert {p.grad.dtype for p in act.parameters()} == {x.grad.dtype} == {dtype}
    act.train().start_collecting()
    act(x)
    act.realign()
    assert act.left_bound.dtype == dtype
    assert act.left_bound.isfinite().all()


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_autocast(phase):
    """Under AMP the layer computes on what the convolution gives it, and learns in float32."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), PWLU())
    set_phase(model[1], phase)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = model(torch.randn(2, 3, 5, 5))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert model[1].running_mean.dtype == torch.float32
    assert (model[1].running_mean.abs().sum() > 0) == (phase == 'collect')


@pytest.mark.parametrize('phase', ['learn', 'collect', 'fixed'])
def test_meta_device(phase):
    """Nothing of the module stays behind, be it cached tables."""
    act = make_pwlu()
    set_phase(act, phase)
    act.eval()(torch.zeros(2, 4))
    act.to('meta')
    assert {t.device.type for t in act.state_dict().values()} == {'meta'}
    assert act(torch.zeros(2, 4, device='meta')).device.type == 'meta'


def test_built_on_meta_and_filled_later():
    """Large models are made without memory, then by to_empty() and a checkpoint."""
    with torch.device('meta'):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), PWLU())
    assert {t.device.type for t in model.state_dict().values()} == {'meta'}
    source = nn.Sequential(nn.Conv2d(3, 4, 1), make_pwlu())
    source[1].freeze()
    model.to_empty(device='cpu').load_state_dict(source.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert model[1].phase == 'fixed'
    assert torch.equal(model(x), source(x))


def test_torch_compile_of_the_layer_in_every_phase():
    """One graph, the same values and gradients as eager, and statistics collected."""
    x = random_tensor((3, 4, 5), torch.float32)
    for phase in ('learn', 'collect', 'fixed'):
        results = []
        for compiled in (False, True):
            torch._dynamo.reset()
            act = make_pwlu()
            set_phase(act, phase)
            run = act.forward
            if compiled:
                run = torch.compile(run, fullgraph=True, backend='aot_eager')
            value = x.clone().requires_grad_()
            y = run(value)
            y.square().sum().backward()
            results.append(
                [y, value.grad, *(p.grad for p in act.parameters()), act.running_mean.clone()]
            )
        for a, b in zip(*results, strict=True):
            assert_near(a, b, 1e-6, phase)


def test_torch_compile_of_the_module_itself():
    """torch.compile() registers it into a module of its own."""
    act = make_pwlu()
    x = random_tensor((3, 4, 5), torch.float32)
    compiled = torch.compile(act, fullgraph=True, backend='eager')
    assert torch.equal(compiled(x), act(x))
    assert act.channel_dim is None


def test_torch_export_of_a_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), PWLU()).eval()
    randomise(model[2])
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,))
    assert_near(program.module()(x), model(x), 1e-6)
