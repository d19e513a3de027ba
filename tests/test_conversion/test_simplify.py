# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Folding and turning into PWLUs for deployment: the outputs stay."""

import copy

import pytest
import torch
from torch import nn

import mmact
from mmact.activations import PAU, PWLU, Activation, AReLU, DiTAC, DyReLUB
from mmact.conversion import CHEAP, fold_batch_norms, model_to_pwlu

models = pytest.importorskip('torchvision.models')


def settled(model, x):
    """The model in evaluation, with statistics and affine maps that are not the first ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        model.train()(x)
        for name, parameter in model.named_parameters():
            if name.endswith('points'):
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def outputs(model, x):
    return model(x).double()


@pytest.mark.parametrize(
    ('name', 'norms', 'left'),
    [
        ('resnet18', 20, 0),  # behind convolutions
        # Pre-activation: behind concatenations, in front of PWLUs; what two see is not folded.
        ('densenet121', 121, 0),
        ('shufflenet_v2_x0_5', 56, 0),
    ],
)
def test_fold_batch_norms(name, norms, left):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 64, 64)
    model = models.get_model(name)
    mmact.convert(model, dict(type='PWLU'), example=x)
    settled(model, x)
    before = outputs(model, x)
    folded = fold_batch_norms(model, x)
    assert len(set(folded)) == len(folded) == norms
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == left
    torch.testing.assert_close(outputs(model, x), before, rtol=1e-4, atol=1e-4)


def test_what_was_synchronised():
    """MMEngine turns SyncBN into a BatchNorm of its own."""
    revert = pytest.importorskip('mmengine.model').revert_sync_batchnorm
    x = torch.randn(4, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU())
    model = settled(revert(model), x)
    before = outputs(model, x)
    assert fold_batch_norms(model, x) == ['1']
    torch.testing.assert_close(outputs(model, x), before, rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A BatchNorm whose output is seen twice, a convolution called twice, and one that is plain."""

    def __init__(self):
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.two, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.bn3, self.act3 = nn.BatchNorm2d(3), PWLU(3)
        self.bn4, self.act4 = nn.BatchNorm2d(3), PWLU(3)
        self.three, self.bn5 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.bn1(self.one(x))
        x = self.bn2(self.two(x)) + self.two(x)
        y = self.bn3(x)
        x = self.act3(y) + y
        x = self.act4(self.bn4(x))
        y = self.three(x)
        return self.bn5(y), y


def test_what_is_seen_twice_is_not_folded():
    x = torch.randn(4, 3, 8, 8)
    model = settled(Shared(), x)
    with torch.no_grad():
        before = model(x)
        assert fold_batch_norms(model, x) == ['bn1', 'bn4']
        for a, b in zip(model(x), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_model_to_pwlu():
    """Any mix of learned activations; those of few pieces stay if they are to be kept."""
    torch.manual_seed(0)

    def net():
        layers = []
        for act in (PAU(), DiTAC(init='prior'), AReLU(), PAU(4, num_groups=None), DyReLUB(4)):
            layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), act]
        return nn.Sequential(*layers)

    x = torch.randn(4, 4, 9, 9)
    model = settled(net(), x)
    before = outputs(model, x)
    other = copy.deepcopy(model)
    report = model_to_pwlu(model, example=x)
    assert len(report.replaced) == 4
    assert [k.was for k in report.kept] == ['DyReLUB']
    assert all(r.error <= 1e-3 for r in report.replaced)
    assert sum(isinstance(m, PWLU) for m in model.modules()) == 4
    torch.testing.assert_close(outputs(model, x), before, rtol=0, atol=2e-2)
    assert len(model_to_pwlu(other, keep=CHEAP).replaced) == 3
    kinds = {type(m) for m in other.modules() if isinstance(m, Activation)}
    assert kinds == {PWLU, AReLU, DyReLUB}
    with pytest.raises(ValueError, match='matches no activation'):
        model_to_pwlu(net(), include='nothing')


def test_bounds_hold_the_inputs():
    """PAU grows otherwise than its tangents; inputs far out are on the table."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), PAU(m=5, n=2)).eval()
    x = 40 * torch.randn(2, 3, 8, 8)
    before = outputs(model, x)
    report = model_to_pwlu(model, example=x, max_error=0.5)
    (replaced,) = report.replaced
    assert model[1].bounds[1] > max(-replaced.low, replaced.high)
    torch.testing.assert_close(outputs(model, x), before, rtol=1e-3, atol=0.6)
