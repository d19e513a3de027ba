# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Section 3.3 of the PWLU paper: statistics (Eq. 5), realignment (Eq. 6), learning."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import LAYOUTS, PWLU_PARAMETERS, assert_near, random_tensor
from torch import nn

from mmact.activations import PWLU

from .utils import expected_output, make_pwlu

# Statistics, Eq. 5 --------------------------------------------------------------------------------


def batch(shape, number, dtype=torch.float32):
    """A batch whose mean and spread change with its number and with the channel."""
    x = random_tensor(shape, dtype, seed=number)
    return x * (1 + number) + number * 0.5 - 1


@pytest.mark.parametrize('num_groups', [None, 1])
@pytest.mark.parametrize(
    'layout',
    ['rows', 'ncl', 'nchw', 'ncdhw', 'tokens', 'nhwc', 'channels_last', 'every_second', 'vector'],
)
def test_statistics_are_those_of_eq_5(layout, num_groups):
    """mu = 0.9 mu + 0.1 mean(x), sigma likewise, from the first batch's on; by hand, in float64.

    The same (C,) shape for inputs of any number of dimensions.
    """
    kind, channels = LAYOUTS[layout], 6
    act = PWLU(channels, num_groups=num_groups, channel_dim=kind.channel_dim)
    act.start_collecting()
    mean = std = None
    for number in range(4):
        x = kind.place(batch(kind.shape(channels), number))
        act(x)
        rows = x.double().movedim(kind.channel_dim, 0).reshape(channels, -1)
        rows = rows.reshape(1, -1) if num_groups == 1 else rows
        batch_mean = rows.sum(1) / rows.size(1)
        batch_std = ((rows - batch_mean[:, None]) ** 2).sum(1).div(rows.size(1)).sqrt()
        mean = batch_mean if mean is None else 0.9 * mean + 0.1 * batch_mean
        std = batch_std if std is None else 0.9 * std + 0.1 * batch_std
    assert act.running_mean.shape == act.running_std.shape == (num_groups or channels,)
    assert_near(act.running_mean, mean, 1e-6)
    assert_near(act.running_std, std, 1e-6)
    assert act.num_batches_tracked == 4


@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9])
def test_momentum_in_double(momentum):
    """The factors of Eq. 5 in the precision of the statistics: 0.9, not the float next to it."""
    act = PWLU(3, stat_momentum=momentum).double()
    act.start_collecting()
    first, second = batch((20, 3), 0, torch.float64), batch((20, 3), 3, torch.float64)
    act(first)
    act(second)
    expected = momentum * first.mean(0) + (1 - momentum) * second.mean(0)
    assert_near(act.running_mean, expected, 1e-14)
    expected = momentum * first.std(0, correction=0) + (1 - momentum) * second.std(0, correction=0)
    assert_near(act.running_std, expected, 1e-14)


def test_statistics_of_half_precision_inputs():
    """Sums of many float16 elements, beyond what float16 itself can hold."""
    act = PWLU(2)
    act.start_collecting()
    x = (300 + 40 * random_tensor((64, 2, 40, 40), torch.float32)).half()
    act(x)
    assert_near(act.running_mean / 300, x.double().mean((0, 2, 3)) / 300, 1e-6)
    assert_near(act.running_std / 40, x.double().std((0, 2, 3), correction=0) / 40, 1e-5)


def test_only_training_batches_in_phase_one_are_counted():
    act = make_pwlu()
    x = random_tensor((5, 4), torch.float32)
    act(x)
    assert act.num_batches_tracked == 0
    act.start_collecting()
    act.eval()(x)
    assert act.num_batches_tracked == 0
    act.train()(x)
    before = act.running_mean.clone()
    assert act.num_batches_tracked == 1
    act.realign()
    act(x + 100)
    assert torch.equal(act.running_mean, before)
    act.freeze()
    act(x + 100)
    assert torch.equal(act.running_mean, before)


def test_statistics_are_collected_without_gradients_enabled():
    """As PreciseBN does: training mode under no_grad."""
    act = PWLU(4)
    act.start_collecting()
    with torch.no_grad():
        act(random_tensor((5, 4), torch.float32))
    assert act.num_batches_tracked == 1
    assert act.running_mean.abs().sum() > 0


def test_starting_again_forgets():
    act = PWLU(4)
    act.start_collecting()
    act(batch((5, 4), 3))
    act.start_collecting()
    assert act.num_batches_tracked == 0
    x = batch((5, 4), 1)
    act(x)
    assert_near(act.running_mean, x.mean(0), 1e-6)


def test_statistics_hold_no_graph():
    """So that deepcopy, EMA and a second backward work in the middle of a network."""
    conv, act = nn.Conv2d(3, 4, 1), PWLU(4)
    act.start_collecting()
    for _ in range(2):
        act(conv(torch.randn(2, 3, 4, 4))).sum().backward()
        for name, buffer in act.named_buffers():
            assert buffer.grad_fn is None, name
            assert not buffer.requires_grad, name
    other = copy.deepcopy(act)
    assert torch.equal(other.running_mean, act.running_mean)
    average = torch.optim.swa_utils.AveragedModel(nn.Sequential(conv, act), use_buffers=True)
    average.update_parameters(nn.Sequential(conv, act))


def test_state_loads_after_statistics_and_realignment():
    """4-D statistics have the shape that a fresh layer has."""
    act = PWLU(4)
    act.start_collecting()
    act(torch.randn(2, 4, 5, 5))
    fresh = PWLU(4)
    fresh.load_state_dict(act.state_dict())
    fresh.realign()
    act.realign()
    other = PWLU(4)
    other.load_state_dict(act.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(other(x), act(x))
    assert torch.equal(fresh(x), act(x))


@pytest.mark.parametrize('bad', [math.nan, math.inf, 1e38])
@pytest.mark.parametrize('first', [True, False])
def test_a_batch_that_overflowed_does_not_spoil_the_statistics(first, bad):
    """Under AMP a step with infinities is skipped; statistics must be as if it had not been."""
    good, act = batch((50, 4), 2), PWLU(4)
    spoilt = good.clone()
    spoilt[3] = bad
    spoilt[4] = -bad
    act.start_collecting()
    for x in (spoilt, good) if first else (good, spoilt):
        assert act(x).shape == x.shape
    assert_near(act.running_mean, good.mean(0), 1e-5)
    assert_near(act.running_std, good.std(0, correction=0), 1e-5)
    act.realign()
    assert act.left_bound.isfinite().all()


def test_one_channel_that_overflowed_first():
    """It takes its statistics from the first batch in which they are finite."""
    good, act = batch((50, 4), 2), PWLU(4)
    spoilt = good.clone()
    spoilt[3, 1] = math.inf
    act.start_collecting()
    act(spoilt)
    act(good)
    assert_near(act.running_mean[1], good.mean(0)[1], 1e-5)
    assert_near(act.running_std[1], good.std(0, correction=0)[1], 1e-5)


def test_nothing_but_non_finite_batches_is_no_statistics():
    act = PWLU(4)
    act.start_collecting()
    act(torch.full((5, 4), math.nan))
    with pytest.raises(RuntimeError, match='statistics'):
        act.realign()


# Phase I ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('num_groups', [None, 1])
def test_phase_one_is_exactly_relu(num_groups, training):
    """Values and gradients of x from the start on; zero gradients of parameters."""
    act = PWLU(4, num_groups=num_groups)
    act.start_collecting()
    act.train(training)
    x = (5 * random_tensor((3, 4, 7), torch.float32)).requires_grad_()
    grad = random_tensor(x.shape, torch.float32, seed=1)
    y = act(x)
    y.backward(grad)
    assert torch.equal(y, F.relu(x))
    assert torch.equal(x.grad, torch.where(x > 0, grad, 0.0))
    for name, parameter in act.named_parameters():
        assert parameter.grad is not None, f'{name}: DDP would wait for it'
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
        assert parameter.requires_grad


def test_phase_one_when_the_input_needs_no_gradient():
    """The first layer of a network, and networks whose stem is frozen."""
    act = make_pwlu()
    act.start_collecting()
    act(random_tensor((3, 4), torch.float32)).sum().backward()
    assert all(not p.grad.any() for p in act.parameters())


def test_phase_one_leaves_the_parameters_alone_under_momentum():
    act = make_pwlu()
    act.start_collecting()
    before = copy.deepcopy(dict(act.named_parameters()))
    optimizer = torch.optim.SGD(act.parameters(), lr=0.1, momentum=0.9)
    for number in range(3):
        optimizer.zero_grad()
        act(batch((8, 4), number)).square().sum().backward()
        optimizer.step()
    for name, parameter in act.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_phase_one_within_activation_checkpointing():
    """with_cp of OpenMMLab's backbones."""
    act = PWLU(4)
    act.start_collecting()
    x = random_tensor((3, 4), torch.float32).requires_grad_()
    torch.utils.checkpoint.checkpoint(act, x, use_reentrant=False).sum().backward()
    assert all(not p.grad.any() for p in act.parameters())
    assert torch.equal(x.grad, (x > 0).float())


# Phase II -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_groups', [None, 1])
@pytest.mark.parametrize('num_intervals', [1, 5, 16])
def test_realign_is_eq_6(num_intervals, num_groups):
    """B = mu -+ 3 sigma, K_L = 0, K_R = 1, Y_k = ReLU(B_k): from a function that had learned."""
    act = make_pwlu(4, num_intervals=num_intervals, num_groups=num_groups)
    act.start_collecting()
    for number in range(3):
        act(batch((30, 4), number))
    mean, std = act.running_mean.double(), act.running_std.double()
    act.realign()
    assert act.phase == 'learn'
    assert act.phase_id == PWLU(4).phase_id
    left, right = mean - 3 * std, mean + 3 * std
    ends = left[:, None] + (right - left)[:, None] * torch.arange(num_intervals + 1) / num_intervals
    expected = (left, right, torch.zeros_like(left), torch.ones_like(left), ends.clamp(min=0))
    for name, value in zip(PWLU_PARAMETERS, expected, strict=True):
        assert_near(getattr(act, name), value.flatten(), 1e-6, name)


def test_realign_keeps_the_parameter_objects():
    """Optimizers, DDP and EMA hold on to them."""
    act = make_pwlu()
    objects = {name: (id(p), p.data_ptr()) for name, p in act.named_parameters()}
    act.start_collecting()
    x = batch((30, 4), 1).requires_grad_()
    act(x)
    act.realign()
    assert {name: (id(p), p.data_ptr()) for name, p in act.named_parameters()} == objects
    assert all(p.requires_grad and p.is_leaf for p in act.parameters())
    act(x).sum().backward()
    assert act.points.grad.abs().sum() > 0


def test_realign_needs_statistics():
    for act in (PWLU(4), PWLU(4), PWLU(num_groups=1)):
        with pytest.raises(RuntimeError, match='start_collecting'):
            act.realign()
        act.start_collecting()
        act.eval()(torch.zeros(2, 4))
        act.train()(torch.empty(0, 4))
        with pytest.raises(RuntimeError, match='statistics'):
            act.realign()
        assert act.phase == 'collect'


@pytest.mark.parametrize('value', [0.0, 5.0, -5.0, 1e4, -1e6])
def test_a_channel_without_variance_survives_realignment(value):
    """A dead channel of a ReLU network: a narrow function, still ReLU around its one value."""
    act = PWLU(3)
    act.start_collecting()
    x = random_tensor((40, 3), torch.float32)
    x[:, 1] = value
    act(x)
    assert act.running_std[1] == 0
    act.realign()
    left, right = act.left_bound[1].item(), act.right_bound[1].item()
    assert right - left >= PWLU.MIN_WIDTH * 0.99
    assert left <= value <= right
    x = x.requires_grad_()
    y = act(x)
    assert_near(y[:, 1] / max(1, abs(value)), F.relu(x[:, 1]) / max(1, abs(value)), 2e-3)
    y.square().sum().backward()
    for name, parameter in act.named_parameters():
        assert parameter.grad.isfinite().all(), name
    assert x.grad.isfinite().all()
    assert_near(act.eval()(x), expected_output(act, x), 1e-5)


def test_inputs_far_to_the_left_of_zero():
    """Eq. 6 as it is printed: all points are 0 and K_R = 1 from B_R on, not from 0 on."""
    act = PWLU(1)
    act.start_collecting()
    x = torch.linspace(-11, -9, 101).view(-1, 1)
    act(x)
    act.realign()
    right = act.right_bound.item()
    assert right < 0
    assert torch.equal(act.rows('points'), torch.zeros(1, 17))
    assert_near(act(torch.tensor([[-10.0], [right + 2]])), torch.tensor([[0.0], [2.0]]), 1e-5)


def test_the_whole_procedure_learns():
    """Phase I, realignment, and gradient descent towards a function that no ReLU can form."""
    torch.manual_seed(0)
    act = PWLU(2, num_intervals=8)
    act.start_collecting()
    for _ in range(5):
        act(torch.randn(256, 2) * 2 + 1)
    act.realign()
    aligned = copy.deepcopy(dict(act.named_parameters()))
    optimizer = torch.optim.Adam(act.parameters(), lr=0.03)
    losses = []
    for _ in range(300):
        x = torch.randn(256, 2) * 2 + 1
        loss = (act(x) - x.sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert sum(losses[-10:]) / 10 < 0.03
    for name, parameter in act.named_parameters():
        assert (parameter != aligned[name]).any(), name


def test_bounds_are_kept_apart():
    """separate_bounds_() moves right bounds only, only where needed, in place."""
    act = make_pwlu(6)
    left = torch.tensor([-1.0, 0.0, 2.0, 2.0, 2.0, -3.0])
    right = torch.tensor([1.0, 0.001, 2.0, 1.0, -9.0, -2.0])
    with torch.no_grad():
        act.left_bound.copy_(left)
        act.right_bound.copy_(right)
    objects = [(id(p), p.data_ptr()) for p in act.parameters()]
    kept = (act.left_bound, act.left_slope, act.right_slope, act.points)
    others = [p.clone() for p in kept]
    act.separate_bounds_()
    expected = torch.where(right - left >= PWLU.MIN_WIDTH, right, left + PWLU.MIN_WIDTH)
    assert torch.equal(act.right_bound.detach(), expected)
    assert [(id(p), p.data_ptr()) for p in act.parameters()] == objects
    for a, b in zip(others, kept, strict=True):
        assert torch.equal(a, b)
    assert act.right_bound.requires_grad
    act(torch.randn(3, 6)).sum().backward()


@pytest.mark.parametrize('training', [True, False])
def test_bounds_that_cross_are_survived_without_it(training):
    act = make_pwlu(3).train(training)
    with torch.no_grad():
        act.right_bound.copy_(act.left_bound - torch.tensor([0.0, 1.0, 1e-8]))
    x = 3 * random_tensor((50, 3), torch.float32)
    y = act(x)
    left, k_left, k_right = act.left_bound, act.left_slope, act.right_slope
    points = act.rows('points')
    below = (x - left) * k_left + points[:, 0]
    above = (x - left) * k_right + points[:, -1]
    assert_near(y, torch.where(x < left, below, above), 1e-4)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in act.parameters())


# Fixed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('training', [True, False])
def test_freeze_keeps_the_function(training):
    """Same values, gradients for x, zero gradients for the parameters."""
    act = make_pwlu().train(training)
    x = (4 * random_tensor((9, 4), torch.float32)).requires_grad_()
    free = act(x)
    (gx,) = torch.autograd.grad(free.square().sum(), x)
    act.freeze()
    assert act.phase == 'fixed'
    y = act(x)
    assert_near(y, free, 1e-5)
    y.square().sum().backward()
    assert_near(x.grad, gx, 1e-5)
    for name, parameter in act.named_parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
        assert parameter.requires_grad


def test_phase_cannot_be_set_past_its_procedures():
    act = PWLU(4)
    with pytest.raises(AttributeError):
        act.phase = 'collect'


@pytest.mark.parametrize('method', ['start_collecting', 'realign', 'freeze', 'separate_bounds_'])
def test_an_unresolved_layer_says_so(method):
    """The hook may meet one: the error is the same as at the first forward."""
    with pytest.raises(RuntimeError, match='num_channels'):
        getattr(PWLU(), method)()


def test_phases_in_the_state_dict_are_stable_numbers():
    """Checkpoints outlive the source: 0 learn, 1 collect, 2 fixed."""
    act = PWLU(2)
    ids = [int(act.phase_id)]
    act.start_collecting()
    ids.append(int(act.phase_id))
    act.freeze()
    ids.append(int(act.phase_id))
    assert ids == [0, 1, 2]
