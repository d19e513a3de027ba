# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.convert on models of torchvision and on small ones that hold one difficulty each."""

import ast
import copy
import gc
import json
import random
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import mmact
from mmact.activations import APL, PAU, PWLU, AReLU, DiTAC, DyReLUB

models = pytest.importorskip('torchvision.models')

# Those that can take the place of another: Maxout changes the number of channels.
NAMES = [record.name for record in mmact.list_activations() if record.name != 'Maxout']


class Block(nn.Module):
    """ResNet's block: one ReLU at two places of different width."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        return self.relu(self.conv2(x))


class Functional(nn.Module):
    """A head that calls a function, on several levels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def level(self, x):
        return F.relu(self.conv(x))

    def forward(self, x):
        return [self.level(x), self.level(F.max_pool2d(x, 2))]


def outputs(model, x):
    with torch.no_grad():
        return model.eval()(x)


def converted(act='PWLU', **kwargs):
    torch.manual_seed(0)
    model = Block()
    mmact.convert(model, dict(type=act), example=torch.randn(2, 3, 8, 8), **kwargs)
    return model


@pytest.mark.parametrize(
    ('name', 'act', 'sites', 'exact'),
    [
        ('resnet18', 'PWLU', 17, True),
        ('resnet18', 'DyReLUB', 17, True),
        ('resnet18', 'PAU', 17, False),
        ('densenet121', 'PWLU', 121, True),
        ('shufflenet_v2_x0_5', 'APL', 37, True),
        ('mobilenet_v3_small', 'PWLU', 24, False),  # Hardswish becomes a table
        ('swin_t', 'DiTAC', 12, True),
        ('convnext_tiny', 'DiTAC', 18, True),
    ],
)
def test_torchvision(name, act, sites, exact):
    torch.manual_seed(0)
    model = getattr(models, name)().eval()
    keys, x = set(model.state_dict()), torch.randn(2, 3, 64, 64)
    before, original = outputs(model, x), copy.deepcopy(model.state_dict())
    report = mmact.convert(model, dict(type=act), example=x)
    assert len(report.replaced) == sites
    after = outputs(model, x)
    if exact:
        torch.testing.assert_close(after, before, atol=1e-5 * before.abs().max().item(), rtol=0)
    else:
        assert any(r.error for r in report.replaced), 'the report says how far off the start is'
    assert keys <= set(model.state_dict())
    result = model.load_state_dict(original, strict=False)
    assert not result.unexpected_keys
    model.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for path, module in model.named_modules():
        if isinstance(module, mmact.activations.Activation):
            assert all(p.grad is not None for p in module.parameters()), path


def test_places_of_one_module():
    model = converted()
    acts = [m for m in model.modules() if isinstance(m, PWLU)]
    assert [m.num_channels for m in acts] == [4, 6]
    assert 'relu.points' in model.state_dict()
    one = Block()
    report = mmact.convert(
        one, dict(type='AReLU'), example=torch.randn(2, 3, 8, 8), sharing='module'
    )
    assert len(report.replaced) == 1
    assert isinstance(one.relu, AReLU)


class Gated(nn.Module):
    """One ReLU at three places, the first of which is on the squeezed map of a gate."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.conv1(x)
        x = x * self.fc2(self.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.relu(self.conv2(self.relu(x)))


class GatedLater(Gated):
    """The second place is the gate."""

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = x * self.fc2(self.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.relu(self.conv2(x))


class SometimesGated(Gated):
    """No dry run comes to the gate."""

    def forward(self, x):
        x = self.relu(self.conv1(x))
        if x.size(-1) < 3:
            x = x * self.fc2(self.relu(self.fc1(x))).sigmoid()
        return self.relu(self.conv2(x))


@pytest.mark.parametrize('cls', [Gated, GatedLater, SometimesGated])
@pytest.mark.parametrize('act', ['PWLU', 'APL'])
def test_a_place_that_keeps_its_function_keeps_the_child(cls, act):
    """The others get children of their own, whichever comes first."""
    torch.manual_seed(0)
    model, x = cls().eval(), torch.randn(2, 3, 8, 8)
    keys, before = set(model.state_dict()), outputs(model, x)
    report = mmact.convert(model, dict(type=act), example=x)
    assert type(model.relu) is nn.ReLU
    assert len(report.replaced) == 2
    assert 'relu' not in {r.path for r in report.replaced}
    assert [k.path for k in report.kept] == ['relu']
    assert all(model.get_submodule(r.path).num_channels == r.channels for r in report.replaced)
    assert keys <= set(model.state_dict())
    torch.testing.assert_close(outputs(model, x), before)
    assert outputs(model, torch.randn(2, 3, 1, 1)).shape == (2, 6, 1, 1)
    model.train()(x).sum().backward()
    added = {n: p for n, p in model.named_parameters() if n not in keys}
    assert added
    assert all(p.grad is not None for p in added.values())
    mmact.convert(model, dict(type='ReLU'), example=x)
    assert set(model.state_dict()) == keys
    assert [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)] == ['relu']
    torch.testing.assert_close(outputs(model, x), before)


class Branches(nn.Module):
    """DDRNet: what was activated is added to in place, which ReLU's gradient does not mind."""

    def __init__(self, view=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.view = nn.ReLU(), view

    def forward(self, x):
        x = self.conv1(x)
        y = self.conv2(self.relu(x.view(x.shape) if self.view else x))
        x += y
        return F.relu(x) + x.mul_(2)


@pytest.mark.parametrize('view', [False, True])
@pytest.mark.parametrize('act', sorted({*NAMES} - {'ReLU'}))
def test_inputs_that_are_changed_in_place(act, view):
    torch.manual_seed(0)
    model, x = Branches(view), torch.randn(2, 3, 8, 8)
    mmact.convert(model, dict(type=act), example=x)
    model, loaded = copy.deepcopy(model), model
    torch.manual_seed(1)  # for those with noise
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    # The same as of copies that are made by hand.
    torch.manual_seed(1)
    acts = loaded.relu, loaded.relu_2
    z = loaded.train().conv1(x)
    y = loaded.conv2(acts[0](z.clone()))
    z = z + y
    (acts[1](z.clone()) + 2 * z).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f'{name}: {text}')


def test_source_is_parsed_while_finalisers_parse_too():
    """CPython before 3.11.8 mixes up the depths of two parses, ours and a collection's."""
    rewrite = sys.modules['mmact.conversion.rewrite']
    rewrite._functions.cache_clear()

    def collection(phase, info):
        ast.parse('f(1)')

    threshold = gc.get_threshold()
    gc.callbacks.append(collection)
    gc.set_threshold(1)
    try:
        functions = rewrite._functions(F.__file__)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collection)
    assert 'relu' in [node.name for node in functions.values()]
    assert gc.isenabled()


def test_functions():
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(2, 3, 8, 8)
    before = outputs(model, x)
    report = mmact.convert(model, dict(type='PWLU'), example=x)
    assert len(report.replaced) == 1, 'shared over the levels'
    for a, b in zip(outputs(model, x), before, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ('original', 'act', 'tolerance'),
    [
        (nn.ReLU(), 'PWLU', 1e-6),
        (nn.LeakyReLU(0.2), 'PWLU', 1e-6),
        (nn.GELU(), 'PWLU', 2e-2),
        (nn.SiLU(), 'PWLU', 2e-2),
        (nn.Hardswish(), 'PWLU', 2e-2),
        (nn.ReLU(), 'APL', 1e-6),
        (nn.ReLU(), 'DyReLUB', 1e-6),
        (nn.LeakyReLU(0.2), 'DyReLUB', 1e-6),
        (nn.GELU(), 'DiTAC', 1e-6),
        (nn.ReLU(), 'PAU', 0.15),
        (nn.SiLU(), 'PAU', 0.15),
    ],
)
def test_start(original, act, tolerance):
    """The function that was there, and an error in the report that is the one seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4), copy.deepcopy(original)).train()
    x = torch.randn(8, 4, 6, 6)
    before = outputs(model, x)
    report = mmact.convert(model, dict(type=act), example=x)
    (replaced,) = report.replaced
    seen = (outputs(model, x) - before).abs().max().item()
    assert seen <= tolerance
    assert replaced.error is None or seen <= 1.01 * replaced.error + 1e-5


CURVED = [nn.SiLU(), nn.GELU(), nn.Mish(), nn.Hardswish(), nn.ELU()]


@pytest.mark.parametrize('original', CURVED)
@pytest.mark.parametrize('scale', [1, 30, 1000])
def test_far_inputs(original, scale):
    """A table of a curved function goes on outside of its bounds as the function does."""
    torch.manual_seed(0)
    x = scale * torch.randn(4, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(original))
    nn.init.dirac_(model[0].weight)
    before = outputs(model, x)
    report = mmact.convert(model, dict(type='PWLU'), example=x)
    assert report.replaced[0].error < 0.1
    assert (outputs(model, x) - before).abs().max() <= 1.01 * report.replaced[0].error + 1e-3


@pytest.mark.parametrize('original', CURVED)
def test_inputs_that_no_dry_run_saw(original):
    """Weights that are loaded later bring others: a table ends in the slopes that they tend to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(original))
    report = mmact.convert(model, dict(type='PWLU'), example=0.1 * torch.randn(2, 3, 8, 8))
    assert report.replaced[0].high < 1
    x = torch.linspace(-1000, 1000, 20001).view(1, 1, -1, 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(model[1](x), original(x), rtol=0, atol=0.025)


@pytest.mark.parametrize('act', ['PAU', 'GroupRational'])
@pytest.mark.parametrize('scale', [1, 30])
def test_fits_reach_as_far_as_the_inputs(act, scale):
    """A fit of ReLU is one on any scale: its error stays the same share of the range."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.LeakyReLU(0.1))
    report = mmact.convert(model, dict(type=act), example=scale * torch.randn(2, 8, 16, 16))
    (replaced,) = report.replaced
    assert replaced.error <= 0.02 * max(3, -replaced.low, replaced.high)


def test_random_numbers_go_on():
    """The generators of Python, NumPy and PyTorch are where they were, whatever the model asks."""

    class Noisy(nn.Sequential):
        def forward(self, x):
            drawn = random.random() + np.random.rand()  # noqa: NPY002 - the global generator is meant
            return super().forward(x + drawn + torch.rand(1))

    def states():
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global generator is meant
        return random.getstate()[1], numpy, torch.get_rng_state().tolist()

    model = Noisy(nn.Conv2d(3, 4, 1), nn.ReLU())
    before = states()
    mmact.convert(model, dict(type='PWLU'), example=torch.ones(2, 3, 8, 8))
    assert states() == before
    assert model(torch.ones(2, 3, 8, 8)).isfinite().all()
    assert states() != before


def test_nothing_found_is_no_difference():
    class Detector(nn.Sequential):
        def forward(self, x):
            return dict(boxes=super().forward(x).flatten()[:0])

    report = mmact.convert(
        Detector(nn.Conv2d(3, 4, 1), nn.ReLU()), dict(type='PWLU'), example=torch.randn(2, 3, 8, 8)
    )
    assert report.difference is None
    assert len(report.replaced) == 1


def test_what_nothing_calls_stays():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.used, self.idle = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.used(self.conv(x))

    report = mmact.convert(Holds(), dict(type='AReLU'), example=torch.randn(2, 3, 8, 8))
    assert [r.path for r in report.replaced] == ['used']
    assert [(k.path, k.reason.split(':')[0]) for k in report.kept] == [('idle', 'nothing calls it')]


def test_no_width_is_guessed():
    """Where no dry run comes to, the layers beside an activation must leave no choice."""

    class Head(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.conv, self.logits = nn.Conv2d(3, 4, 1), nn.Conv2d(4, classes, 1)
            self.relu = nn.ReLU()

        def forward(self, x, wanted):
            return self.logits(self.relu(self.conv(x)))

    report = mmact.convert(Head(9), dict(type='PWLU'))
    assert 'do not tell' in report.kept[0].reason
    assert mmact.convert(Head(4), dict(type='PWLU')).replaced[0].channels == 4


def test_max_error_refuses():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU())
    report = mmact.convert(model, dict(type='PAU'), example=torch.randn(2, 3, 8, 8), max_error=1e-9)
    assert not report.replaced
    assert 'max_error' in report.kept[0].reason
    assert isinstance(model[1], nn.SiLU)


def test_gates_stay_and_selection():
    torch.manual_seed(0)
    example = torch.randn(2, 3, 64, 64)
    model = models.mobilenet_v3_small()
    report = mmact.convert(model, dict(type='PWLU'), example=example, include='features')
    assert not any(r.path.startswith('classifier') for r in report.replaced)
    assert all(isinstance(m.scale_activation, nn.Hardsigmoid) for m in model.modules()
               if hasattr(m, 'scale_activation'))  # fmt: skip
    with pytest.raises(ValueError, match='matches no activation'):
        mmact.convert(models.resnet18(), dict(type='PWLU'), exclude='no_such_part')
    assert json.loads(report.to_json())
    assert 'features' in str(report)


def test_undone():
    torch.manual_seed(0)
    model, x = Block(), torch.randn(2, 3, 8, 8)
    keys, before = list(model.state_dict()), outputs(model, x)
    mmact.convert(model, dict(type='PWLU'), example=x)
    assert isinstance(model.relu, PWLU)
    mmact.convert(model, dict(type='ReLU'), example=x)
    assert list(model.state_dict()) == keys
    assert not any(isinstance(m, PWLU) for m in model.modules())
    torch.testing.assert_close(outputs(model, x), before)


def test_copies_and_checkpoints():
    model, x = converted(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    expected = outputs(model, x)
    other = copy.deepcopy(model)
    assert torch.equal(outputs(other, x), expected)
    average = AveragedModel(model)
    average.update_parameters(model)
    assert torch.equal(outputs(average.module, x), expected)
    # Running the forward again, as in activation checkpointing, meets the same activations.
    leaf = x.clone().requires_grad_()
    model.train()
    model(leaf).sum().backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    checkpoint(model, leaf, use_reentrant=False).sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain[n])


@pytest.mark.parametrize('frozen', [0, 1, 2, 3])
def test_behind_frozen_parameters_alone_nothing_learns(frozen):
    """Nothing is trained through frozen stages: that would cost the memory that freezing saves.

    The stem's activation of a detector is a child of the backbone, whose other stages learn.
    """
    model = nn.Sequential(
        nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)
    )
    model.append(nn.ReLU())
    for layer in [model[1], model[3], model[5]][:frozen]:
        layer.requires_grad_(False)
    mmact.convert(model, dict(type='AReLU'), example=(1, 3, 8, 8))
    learns = [all(p.requires_grad for p in model[i].parameters()) for i in (0, 2, 4, 6)]
    # Of the first no parameter made the input. Where none of the model learns, neither does it.
    assert learns == [frozen < 3, frozen < 1, frozen < 2, frozen < 3]


def test_compiled_and_traced():
    model, x = converted(), torch.randn(2, 3, 8, 8)
    expected = outputs(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(outputs(compiled, x), expected)
    exported = torch.export.export(model.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), expected)


@pytest.mark.parametrize('act', [PAU, APL, AReLU, DiTAC, DyReLUB])
def test_classes_as_types(act):
    model = converted(act)
    assert sum(isinstance(m, act) for m in model.modules()) == 2
