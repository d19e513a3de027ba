# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch.fx: every activation is one node of the graph, and what is built on it works."""

import copy
import inspect
import pickle

import pytest
import torch
from test_ops.utils import assert_near
from torch import fx, nn

import mmact
from mmact.activations import Activation

CHANNELS = 8  # GroupRational has 8 groups
RECORDS = {r.name: r for r in mmact.list_activations()}
OURS = [n for n, r in RECORDS.items() if issubclass(r.cls, Activation)]
every = pytest.mark.parametrize('name', RECORDS)


def build(name):
    """Convolution, batch norm and the activation, in evaluation, and what goes into them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), RECORDS[name].cls())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model.double().eval(), torch.randn(2, 3, 3, 2, dtype=torch.float64)


@every
def test_symbolic_trace(name):
    model, x = build(name)
    traced = fx.symbolic_trace(model)
    if name in OURS:
        nodes = [(node.op, node.target) for node in traced.graph.nodes]
        assert nodes[1:-1] == [('call_module', str(k)) for k in range(3)]
    expected = model(x)
    for other in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert torch.equal(other(x), expected)
    # The traced module learns.
    traced(x).square().sum().backward()
    assert all(p.grad is not None for p in traced.parameters())


@pytest.mark.parametrize('name', OURS)
def test_the_signature_is_forwards_own(name):
    parameters = inspect.signature(RECORDS[name].cls.forward).parameters
    assert list(parameters)[:2] == ['self', 'x']


def test_a_second_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = mmact.activations.DyReLUB(4, context_channels=2)

        def forward(self, x, context):
            return self.act(x, context=context)

    model, x, context = Net(), torch.randn(2, 4, 3, 3), torch.randn(2, 2, 3, 3)
    nn.init.normal_(model.act.fc2_weight)
    assert torch.equal(fx.symbolic_trace(model)(x, context), model(x, context))


@pytest.mark.parametrize('name', OURS)
def test_a_layer_alone(name):
    with pytest.raises(fx.proxy.TraceError, match=r'nn\.Sequential'):
        fx.symbolic_trace(RECORDS[name].cls())


def test_a_layer_that_is_not_part_of_the_traced_module():
    act = mmact.activations.AReLU()
    with pytest.raises(NameError, match='submodule'):
        fx.symbolic_trace(lambda x: act(x))


@every
def test_feature_extractor(name):
    """torchvision's tracer has names and leaves of its own."""
    tracing = pytest.importorskip('torchvision.models.feature_extraction')
    model, x = build(name)
    inner = nn.Sequential(model, nn.Flatten()).eval()
    extractor = tracing.create_feature_extractor(inner, {'0': 'y'})
    if name in OURS:
        assert tracing.get_graph_node_names(inner)[1][-2] == '0.2'
    assert torch.equal(extractor(x)['y'], model(x))


@every
def test_efficient_conv_bn_eval_of_mmengine(name):
    efficient = pytest.importorskip('mmengine.model.efficient_conv_bn_eval')
    model, x = build(name)
    holder = nn.ModuleDict({'backbone': model})
    expected = model(x)
    efficient.turn_on_efficient_conv_bn_eval(holder, 'backbone')
    assert_near(model(x), expected, 1e-12)
    calls = []
    handle = model[1].register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert not calls  # folded into the convolution
    model.train()
    model(x).square().sum().backward()
    assert calls
    assert all(p.grad is not None for p in model.parameters())
    handle.remove()


@every
def test_efficient_conv_bn_eval_of_mmcv(name):
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    model = cnn.ConvModule(3, CHANNELS, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type=name))
    model.bn.running_mean.normal_()
    model.eval()
    x = torch.randn(2, 3, 3, 2)
    expected = model(x)
    model.turn_on_efficient_conv_bn_eval()
    assert_near(model(x), expected, 1e-5)
