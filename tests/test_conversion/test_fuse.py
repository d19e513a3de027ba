# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.fuse finds BatchNorms that activations follow, and changes nothing but the time."""

import copy
import pickle
import sys

import pytest
import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

import mmact
from mmact.activations import PWLU, AReLU
from mmact.activations.fusion import norm_act
from mmact.conversion.rewrite import fusions, original_class

C = 4


class Forms(nn.Module):
    """The forms in which forwards say it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)
        for i in range(1, 6):
            setattr(self, f'bn{i}', nn.BatchNorm2d(C))
            setattr(self, f'act{i}', PWLU(C))
        self.down = None

    def forward(self, x):
        out = self.conv(x)
        out = self.bn1(out)
        out = self.act1(out)
        out = self.act2(self.bn2(self.conv(out)))
        out = self.bn3(self.conv(out))
        identity = x
        if self.down is not None:
            identity = self.down(x)
        out += identity
        out = self.act3(out)
        y = self.bn4(out)
        y = identity + y
        y = self.act4(y)
        z = self.bn5(y)
        return self.act5(z)


class Block(nn.Module):
    """As OpenMMLab's and timm's blocks have them: an inner function, and code that does nothing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)
        for i in range(1, 4):
            setattr(self, f'bn{i}', nn.BatchNorm2d(C))
            setattr(self, f'act{i}', PWLU(C))
        self.drop = nn.Identity()
        self.se = None
        self.with_plugins = self.with_cp = False

    def plugin(self, x):
        return 2 * x

    def forward(self, x):
        def inner(x):
            identity = x
            out = self.bn1(self.conv(x))
            out = self.drop(out)
            out = self.act1(out)
            out = self.bn2(out)
            if self.with_plugins:
                out = self.plugin(out)
            out += identity
            return out

        if self.with_cp and x.requires_grad:
            out = checkpoint(inner, x, use_reentrant=False)
        else:
            out = inner(x)
        out = self.act2(out)
        shortcut = out
        out = self.bn3(out)
        if self.se is not None:
            out = self.se(out)
        out = self.act3(out)
        return out + shortcut


class Others(nn.Module):
    """Forms that must stay: the norm's result is seen by somebody else."""

    def __init__(self):
        super().__init__()
        self.bn, self.act, self.other = nn.BatchNorm2d(C), PWLU(C), AReLU()
        self.relu = nn.ReLU()

    def forward(self, x):
        z = self.bn(x)
        y = self.act(z)  # z goes on
        a = self.bn(x)
        b = a * 2
        a = self.act(a)
        c = self.bn(x)
        if c.sum() > 1e9:
            return c
        c = self.act(c)
        d = self.bn(x)
        d += d
        d = self.act(d)
        e = self.bn(x)
        e += x
        e += y
        e = self.act(e)
        f = self.relu(self.bn(x))
        return z + y + a + b + c + d + e + f


def run(model, x):
    model.zero_grad()
    y = model(x)
    y.square().mean().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compare(model, other, x, tolerance=1e-9):
    for a, b in zip(run(model, x), run(other, x), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture
def calls(monkeypatch):
    """What norm_act was asked for, by the classes that were rewritten from now on."""
    seen = []

    def look(norm, act, x, residual=None):
        seen.append((norm, act, residual is not None))
        return norm_act(norm, act, x, residual)

    rewrite, fuse = (sys.modules[f'mmact.conversion.{name}'] for name in ('rewrite', 'fuse'))
    rewrite._rewritten.cache_clear()
    monkeypatch.setattr(rewrite, 'norm_act', look)
    monkeypatch.setattr(fuse, 'norm_act', look)
    yield seen
    rewrite._rewritten.cache_clear()


def test_forms(calls):
    torch.manual_seed(0)
    model = Forms().double()
    other = copy.deepcopy(model)
    keys = list(model.state_dict())
    assert mmact.fuse(model) == 5
    assert mmact.fuse(model) == 5  # nothing more to do
    x = torch.randn(2, C, 5, 5, dtype=torch.float64)
    compare(model, other, x)
    assert [(n, r) for n, _, r in calls[:5]] == [
        (model.bn1, False), (model.bn2, False), (model.bn3, True), (model.bn4, True),
        (model.bn5, False),
    ]  # fmt: skip
    assert list(model.state_dict()) == keys
    assert isinstance(model, Forms)
    assert type(model).__name__ == 'Forms'
    for duplicate in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        again = duplicate(model)
        assert original_class(again) is Forms
        compare(again, model, x)
    graph = fx.symbolic_trace(model)
    torch.testing.assert_close(graph(x), model(x))
    assert {n.target for n in graph.graph.nodes if n.op == 'call_module'} >= {'bn3', 'act3'}


def test_inner_functions_and_idle_code(calls):
    torch.manual_seed(0)
    model = Block().double()
    other = copy.deepcopy(model)
    assert mmact.fuse(model) == 3
    x = torch.randn(2, C, 5, 5, dtype=torch.float64)
    compare(model, other, x)
    assert [(n, r) for n, _, r in calls] == [
        (model.bn1, False), (model.bn2, True), (model.bn3, False),
    ]  # fmt: skip
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(again.eval()(x), copy.deepcopy(other).eval()(x))
    # What was idle no longer is: the forward is as it was.
    x.requires_grad_()
    changes = dict(with_cp=True, with_plugins=True, drop=nn.Softplus(), se=nn.Tanh())
    for name, value in changes.items():
        one, two = copy.deepcopy(model), copy.deepcopy(other)
        for m in (one, two):
            setattr(m, name, value)
        del calls[:]
        compare(one, two, x)
        assert not calls


def test_forms_that_stay():
    torch.manual_seed(0)
    model = Others().double()
    other = copy.deepcopy(model)
    assert fusions(model, {('bn', 'act')})[1] == 0
    assert mmact.fuse(model) == 0
    assert type(model) is Others
    compare(model, other, torch.randn(2, C, 5, 5, dtype=torch.float64))


def test_sequential(calls):
    torch.manual_seed(0)
    layers = [nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), PWLU(C), nn.BatchNorm2d(C), nn.ReLU()]
    model = nn.Sequential(*layers, nn.BatchNorm2d(C), AReLU()).double()
    other = copy.deepcopy(model)
    assert mmact.fuse(model) == 2
    compare(model, other, torch.randn(2, C, 5, 5, dtype=torch.float64))
    assert len(calls) == 2
    assert isinstance(model[:2], nn.Sequential)
    pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('norm', 'conv', 'act')])
def test_conv_module(order, calls):
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    settings = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='PWLU'), order=order)
    model = nn.Sequential(
        cnn.ConvModule(C, C, 3, padding=1, padding_mode='reflect', **settings),
        cnn.ConvModule(C, C, 1, norm_cfg=None, act_cfg=dict(type='PWLU')),
    ).double()
    other = copy.deepcopy(model)
    usual = order[0] == 'conv'
    assert mmact.fuse(model) == int(usual)
    compare(model, other, torch.randn(2, C, 5, 5, dtype=torch.float64))
    assert len(calls) == int(usual)
    x = torch.randn(2, C, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(model[0](x, activate=False), other[0](x, activate=False))


@pytest.mark.parametrize(
    ('name', 'places'), [('resnet18', 17), ('mobilenet_v2', 35), ('densenet121', 120)]
)
def test_converted_models_of_torchvision(name, places):
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    model = getattr(models, name)().double()
    mmact.convert(model, dict(type='PWLU'), example=(1, 3, 64, 64))
    other = copy.deepcopy(model)
    for m in (model, other):
        for layer in m.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0
    assert mmact.fuse(model) == places
    # On smaller images the last BatchNorms see two numbers a channel, and rounding becomes large.
    compare(model, other, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    # Undone, the calls go to the modules that are there.
    report = mmact.convert(model, dict(type='ReLU'), example=(1, 3, 64, 64))
    assert report.replaced
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64))


def test_from_a_config():
    pytest.importorskip('mmdet')
    from mmact.registry import MODELS

    model = MODELS.build(
        dict(
            type='mmact.Converted',
            original='mmdet.ResNet',
            depth=18,
            base_channels=4,
            norm_eval=False,
            act_cfg=dict(type='PWLU'),
            fuse=True,
        )
    )
    fused = [m for m in model.modules() if getattr(type(m), '_mmact_fusion', None)]
    assert len(fused) == 9  # the stem and every block
    assert sum(len(type(m)._mmact_fusion.pairs) for m in fused) == 17
    model.train()
    sum(y.mean() for y in model(torch.randn(2, 3, 32, 32))).backward()


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r'fuse: model'):
        mmact.fuse('resnet50')
