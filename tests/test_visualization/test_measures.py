# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Activations as functions of one number, and what is measured of them."""

import copy
import math

import pytest
import torch
from torch import nn

import mmact
from mmact.activations import PWLU, ChannelActivation, DyReLUB, FReLU, GroupRational
from mmact.visualization import FunctionRecorder, activation_layers, family, measure, watchable
from mmact.visualization.measures import scalars

RECORDS = {record.name: record for record in mmact.list_activations()}
CHANNELS = 8
every = pytest.mark.parametrize('name', RECORDS)


def build(name: str, moved: float = 0.0) -> nn.Module:
    """A convolution and an activation, whose parameters are moved a little."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), RECORDS[name].cls())
    return move(net, moved)


def move(net: nn.Module, size: float) -> nn.Module:
    with torch.no_grad():
        for p in net[-1].parameters():
            p.add_(size * (0.5 + torch.rand_like(p)))
    return net.eval()


@every
def test_given_what_it_sees_an_activation_is_its_family(name):
    act = build(name, 0.1)[-1]
    if isinstance(act, FReLU):
        act.bn.running_mean.fill_(0.3)
    # One sample of one pixel, so that all kinds of conditions are those of the whole input.
    x = torch.randn(1, CHANNELS, 1, 1)
    functions = family(act)
    conditions = functions.conditions((x,), torch.Generator().manual_seed(0))
    assert conditions.shape == (1, functions.count, len(functions.names))
    assert functions.at_rest().shape == conditions.shape
    with torch.no_grad():
        y = act(x).flatten()
    found = functions.evaluate(x.view(functions.count, -1), conditions).flatten()
    if name == 'Maxout':
        y = y.repeat_interleave(act.k)
    torch.testing.assert_close(found.float(), y, atol=1e-5, rtol=1e-4)


@every
def test_watching_changes_nothing(name):
    nets = [build(name).train() for _ in range(2)]
    x = torch.randn(4, 2, 9, 9)
    results = []
    for net in nets:
        torch.manual_seed(1)
        if net is nets[0]:
            with FunctionRecorder(net, starts=watchable(net)) as recorder:
                results.append(net(x))
        else:
            results.append(net(x))
    assert torch.equal(*results)
    for key, value in nets[1].state_dict().items():
        assert torch.equal(nets[0].state_dict()[key], value), key
    assert recorder.samples['2'].shape == (CHANNELS, 4 * 7 * 7)
    assert not nets[0][-1]._forward_pre_hooks


@every
def test_distance_is_how_far_the_parameters_led(name):
    net = build(name)
    start = copy.deepcopy(watchable(net))
    found = []
    for size in (0.0, 0.01, 0.1):
        move(net, size)
        with FunctionRecorder(net, starts=start) as recorder, torch.no_grad():
            for seed in range(3):
                net(torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(seed)))
        measures = measure(
            family(net[-1]),
            recorder.samples['2'],
            family(start['2']),
            recorder.extremes['2'],
            recorder.conditions['2'],
            recorder.start_conditions['2'],
        )
        assert measures.distance.shape == (CHANNELS,)
        assert measures.constant.sum() == 0
        found.append(measures.distance.mean().item())
    if any(True for _ in net[-1].parameters()):
        assert found[0] < 1e-6 < found[1] < found[2]
    else:
        assert all(map(math.isnan, found))


def test_distance_and_outside_by_hand():
    now, start = PWLU(2), PWLU(2)
    with torch.no_grad():
        now.rows('points')[1] += 0.5
        now.right_bound[0] = 1.0
        start.right_bound[0] = 1.0
    x = torch.tensor([[-1.0, 0.0, 1.0, 2.0], [-2.0, 2.0, 4.0, math.nan]])
    found = measure(family(now), x, family(start))
    std = math.sqrt((4 + 4 + 16) / 3 - (4 / 3) ** 2)
    torch.testing.assert_close(found.distance, torch.tensor([0.0, 0.5 / std]).double())
    torch.testing.assert_close(found.outside, torch.tensor([1 / 4, 1 / 3]).double())


class Negative(nn.Module):
    def forward(self, x):
        return torch.cat([-x[:, :1].abs(), x[:, 1:]], 1)


@pytest.mark.parametrize('act', [PWLU(3), nn.ReLU(), DyReLUB(3), PWLU(num_groups=1)])
def test_a_channel_that_is_always_off_is_constant(act):
    net = nn.Sequential(nn.Conv2d(2, 3, 1), Negative(), act)
    with FunctionRecorder({'act': act}) as recorder, torch.no_grad():
        net(torch.randn(2, 2, 5, 5))
    if family(act).count == 1:
        # Alone, a layer of one function does not say where its channels are.
        assert recorder.samples['act'].shape == (1, 150)
        return
    found = measure(family(act), recorder.samples['act'], extremes=recorder.extremes['act'])
    assert found.constant.tolist() == [1, 0, 0]


def test_channels_of_shared_functions_are_told_by_their_neighbours():
    for act in (nn.ReLU(), PWLU(num_groups=1), mmact.activations.AReLU()):
        net = nn.Sequential(nn.Linear(2, 3), act, nn.Conv1d(5, 7, 1), copy.deepcopy(act))
        with FunctionRecorder(net) as recorder, torch.no_grad():
            net[0].bias.copy_(torch.tensor([0.0, -100, 0.0]))
            net(torch.randn(4, 5, 2))
        assert recorder.samples['1'].shape == (3, 20)
        assert recorder.samples['3'].shape == (7, 12)
    found = measure(family(nn.ReLU()), recorder.samples['1'], extremes=recorder.extremes['1'])
    assert found.constant.tolist() == [0, 1, 0]


def test_one_large_value_is_enough_to_live():
    act = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 1, 1), act)
    x = -torch.rand(1, 1, 200, 200)
    x[0, 0, 17, 3] = 5.0
    with FunctionRecorder(net, max_values=16) as recorder, torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.zero_()
        net(x)
    samples, extremes = recorder.samples['1'], recorder.extremes['1']
    assert samples.max() < 0
    assert measure(family(act), samples).constant.tolist() == [1]
    assert measure(family(act), samples, extremes=extremes).constant.tolist() == [0]


class Bottleneck(nn.Module):
    """One activation after layers of different widths, as the codebases' ResNets have it."""

    def __init__(self, act):
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 1), act

    def forward(self, x):
        return self.act(self.conv2(self.act(self.conv1(x))))


@pytest.mark.parametrize('act', [nn.ReLU(), GroupRational(num_groups=2)])
def test_a_layer_at_places_of_different_widths(act):
    net = Bottleneck(act)
    with FunctionRecorder(net, max_values=40) as recorder, torch.no_grad():
        for _ in range(3):
            net(torch.randn(2, 2, 3, 3))
    assert recorder.samples['act'].shape == (family(act).count, 40)
    assert recorder.extremes['act'].shape == (family(act).count, 2)


def test_values_that_are_not_finite_are_left_out():
    net = nn.Sequential(nn.BatchNorm2d(2), PWLU())
    x = torch.randn(2, 2, 4, 4)
    x[0, 0, 0, 0], x[0, 1] = math.inf, math.nan
    x[1, 1] = math.nan
    with FunctionRecorder(net) as recorder, torch.no_grad():
        net.eval()(x)
    found = measure(family(net[1]), recorder.samples['1'], family(net[1]), recorder.extremes['1'])
    assert found.distance.isnan().tolist() == [False, True]
    assert found.outside.isnan().tolist() == [False, True]


def test_conditions_are_of_all_calls_and_few():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), DyReLUB(reduction=1)).eval()
    net[1].fc2_weight.data.normal_()
    with FunctionRecorder(net) as recorder, torch.no_grad():
        for call in range(40):
            net(torch.full((2, 2, 1, 1), float(call)))
    seen = recorder.conditions['1']
    assert seen.shape == (16, 4, 4)
    assert len(seen[:, 0, 0].unique()) > 10


def test_standard_activations_are_found_and_softmax_is_not():
    net = nn.Sequential(*(r.cls() for r in RECORDS.values()), nn.Softmax(1), nn.Linear(2, 2))
    found = activation_layers(net)
    assert list(found)[: len(RECORDS)] == list(map(str, range(len(RECORDS))))
    unresolved = {
        str(i)
        for i, act in enumerate(net)
        if isinstance(act, ChannelActivation) and not act.resolved
    }
    assert set(watchable(net)) == set(found) - unresolved - {str(len(RECORDS))}


def test_scalars_are_means_and_the_worst_layer():
    a, b = PWLU(2), PWLU(2)
    start = PWLU(2)
    with torch.no_grad():
        b.points += 1.0
    x = torch.tensor([[-1.0, 1.0], [-4.0, 4.0]])
    found = scalars([measure(family(act), x, family(start)) for act in (a, b)])
    assert found['activation_distance'] == pytest.approx(found['activation_distance_worst'] / 2)
    assert found['activation_outside'] == found['activation_outside_worst'] == 0.5
    assert found['activation_constant'] == 0
    assert not {'activation_outside', 'activation_distance'} & set(
        scalars([measure(family(nn.ReLU()), x)])
    )
