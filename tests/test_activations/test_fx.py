# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch.fx sees every activation as one node, as it does PyTorch's own."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

import mmact
from mmact.activations import Activation

OWN = {r.name: r.cls for r in mmact.list_activations() if issubclass(r.cls, Activation)}


def network(name):
    """Two convolutions, each with BatchNorm and the activation."""
    act = OWN[name]
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), act())
    width = first(torch.zeros(2, 3, 5, 5)).size(1)  # Maxout's is smaller
    net = nn.Sequential(*first, nn.Conv2d(width, 16, 1), nn.BatchNorm2d(16), act())
    return net.eval()


@pytest.mark.parametrize('name', OWN)
def test_symbolic_trace(name):
    net = network(name)
    traced = fx.symbolic_trace(net)
    nodes = [node for node in traced.graph.nodes if node.op == 'call_module']
    assert [node.target for node in nodes] == ['0', '1', '2', '3', '4', '5']
    x = torch.randn(2, 3, 9, 8)
    for module in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        torch.testing.assert_close(module(x), net(x), rtol=0, atol=0)
    # The same module learns in both.
    traced(x).sum().backward()
    expected = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    for p, grad in zip(net.parameters(), expected, strict=True):
        assert (p.grad is None) == (grad is None)
        if grad is not None:
            torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize('name', OWN)
def test_feature_extractor_of_torchvision(name):
    """Its tracer notes the module that a node comes from."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    net = network(name)
    extractor = extraction.create_feature_extractor(net, ['2', '5'])
    x = torch.randn(2, 3, 9, 8)
    features = extractor(x)
    torch.testing.assert_close(features['5'], net(x), rtol=0, atol=0)
    torch.testing.assert_close(features['2'], net[:3](x), rtol=0, atol=0)


@pytest.mark.parametrize('name', ['PWLU', 'AReLU', 'PAU', 'DyReLUC', 'DiTAC'])
def test_efficient_conv_bn_eval(name):
    """MMEngine's rewriting of conv and BN in evaluation mode rests on torch.fx."""
    efficient = pytest.importorskip('mmengine.model.efficient_conv_bn_eval')
    net = network(name)
    x = torch.randn(2, 3, 9, 8)
    expected = net(x)
    efficient.turn_on_efficient_conv_bn_eval(nn.ModuleDict({'net': net}), 'net')
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
