# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""InputRecorder: what it samples, and that it changes nothing."""

import pytest
import torch
from torch import nn

from mmact.activations import PWLU, FReLU
from mmact.visualization import InputRecorder, activations_from_state_dict, scalar_activations


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        PWLU(),
        FReLU(3),
        nn.Flatten(2),
        nn.Linear(16, 5),
        PWLU(),
        PWLU(num_groups=1),
    )


def test_finds_scalar_activations_only():
    assert list(scalar_activations(small_net())) == ['1', '5', '6']
    assert list(scalar_activations({'any': nn.GELU()})) == ['any']
    assert scalar_activations(nn.Sequential(PWLU())) == {}  # without channels, and so functions


def test_samples_are_complete_and_sorted_by_channel():
    torch.manual_seed(0)
    net = small_net()
    x = torch.randn(2, 2, 6, 6)
    with InputRecorder(net) as recorder:
        net(x)
        net(x + 1)
    conv = torch.cat([net[0](x), net[0](x + 1)]).detach()
    expected = conv.transpose(0, 1).flatten(1)
    # The order within a channel is free.
    torch.testing.assert_close(
        recorder.samples['1'].sort(1).values, expected.sort(1).values, rtol=0, atol=0
    )
    tokens = torch.cat([net[:5](x), net[:5](x + 1)]).detach()
    expected = tokens.permute(2, 0, 1).flatten(1)
    assert torch.equal(recorder.samples['5'].sort(1).values, expected.sort(1).values)
    assert recorder.samples['6'].shape == (1, tokens.numel())  # one function for all channels


def test_memory_is_bounded_and_all_batches_are_represented():
    layer = nn.Identity()
    with InputRecorder({'layer': layer}, max_values=500) as recorder:
        for batch in range(10):
            layer(torch.full((1, 1, 40, 40), float(batch)))
    samples = recorder.samples['layer']
    assert samples.shape == (1, 500)
    counts = torch.bincount(samples[0].long(), minlength=10)
    assert ((counts > 20) & (counts < 90)).all(), counts


def test_a_large_input_is_sampled_without_bias():
    layer = PWLU(2)
    x = torch.rand(4, 2, 100, 100) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    with InputRecorder({'layer': layer}, max_values=2000) as recorder:
        layer(x)
    assert recorder.samples['layer'].shape == (2, 2000)
    means = recorder.samples['layer'].mean(1)
    torch.testing.assert_close(means, torch.tensor([0.5, 5.0]), rtol=0.05, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_values_that_are_not_finite(dtype):
    layer = nn.Identity()
    x = torch.tensor([1.0, float('nan'), float('inf'), 2.0], dtype=dtype)
    with InputRecorder({'layer': layer}) as recorder:
        layer(x)
        layer(x[:0])
    assert recorder.samples['layer'].dtype == torch.float32
    torch.testing.assert_close(
        recorder.samples['layer'],
        torch.tensor([[1.0, float('nan'), float('nan'), 2.0]]),
        equal_nan=True,
    )


def test_nothing_but_reading():
    torch.manual_seed(0)
    net = small_net().train()
    x = torch.randn(2, 2, 6, 6)
    before = {k: v.clone() for k, v in net[0].state_dict().items()}
    random_state = torch.get_rng_state()
    with InputRecorder(net, max_values=3) as recorder:
        y = net(x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, before[k]) for k, v in net[0].state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())
    seen = recorder.samples['1'].clone()
    net(x * 100)
    assert torch.equal(recorder.samples['1'], seen)
    assert y.requires_grad
    assert not seen.requires_grad


def test_same_inputs_give_the_same_sample():
    layer = nn.Identity()
    x = torch.randn(3, 1000)
    samples = []
    for _ in range(2):
        with InputRecorder({'a': layer}, max_values=10) as recorder:
            layer(x)
        samples.append(recorder.samples['a'])
    assert torch.equal(*samples)


def test_max_values_must_be_positive():
    with pytest.raises(ValueError, match='max_values must be a positive integer, got 0'):
        InputRecorder(nn.Identity(), max_values=0)


def test_activations_from_state_dict_equal_those_of_the_model():
    torch.manual_seed(0)
    net = small_net()
    for layer in scalar_activations(net).values():
        for p in layer.parameters():
            p.data += 0.3 * torch.rand_like(p)
        layer.freeze()
    rebuilt = activations_from_state_dict(net.state_dict())
    assert list(rebuilt) == ['1', '5', '6']
    x = torch.randn(2, 3, 7)
    assert torch.equal(rebuilt['1'](x), net[1].eval()(x))
    assert torch.equal(rebuilt['6'](x), net[6].eval()(x))
    assert list(activations_from_state_dict(PWLU(3).state_dict())) == ['']
    assert activations_from_state_dict({'x.points': torch.zeros(2, 2)}) == {}
