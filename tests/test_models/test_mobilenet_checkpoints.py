# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MobileNets against OpenMMLab's: the same keys, the same numbers, checkpoints that load."""

import importlib

import pytest
import torch
from torch import nn
from twins import assert_same_step, draw_norms

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmact.models.backbones import MobileNetV2, MobileNetV3
from mmact.registry import MODELS


def original(codebase: str, name: str, **options) -> nn.Module:
    """A codebase's backbone with random weights, statistics of normalisation included."""
    pytest.importorskip(codebase)
    torch.manual_seed(0)
    net = getattr(importlib.import_module(f'{codebase}.models.backbones'), name)(**options)
    draw_norms(net)
    return net


def assert_equal(theirs: nn.Module, ours: nn.Module, training: bool = True) -> None:
    """Outputs and gradients of one step are equal to the bit."""
    torch.manual_seed(1)
    assert_same_step(theirs, ours, torch.randn(2, 3, 64, 64), training)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('width', [0.35, 0.5, 0.75, 1.0, 1.4])
def test_v2_equals_mmpretrain(width, training):
    options = dict(widen_factor=width, out_indices=(0, 2, 6, 7))
    theirs = original('mmpretrain', 'MobileNetV2', **options)
    ours = MobileNetV2(**options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_equal(theirs, ours, training)


@pytest.mark.parametrize('codebase', ['mmpose', 'mmdet', 'mmseg'])
def test_v2_equals_the_other_codebases(codebase):
    options = dict(widen_factor=0.5, out_indices=(1, 3, 6))
    # MMSegmentation's has no last convolution.
    theirs = original(codebase, 'MobileNetV2', **options)
    ours = MobileNetV2(**options)
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith('conv2.') for key in result.missing_keys)
    assert bool(result.missing_keys) == (codebase == 'mmseg')
    x = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        for net in (theirs, ours):
            net.train(training)
        for a, b in zip(theirs(x), ours(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize('codebase', ['mmpretrain', 'mmdet'])
def test_v2_checkpoint_with_a_prefix_initialises_a_dynamic_network(codebase, tmp_path):
    """As init_cfg does, from a detector's or classifier's checkpoint, through MMEngine."""
    theirs = original(codebase, 'MobileNetV2', widen_factor=0.35, out_indices=(7,))
    checkpoint = {f'backbone.{key}': value for key, value in theirs.state_dict().items()}
    torch.save(dict(state_dict=checkpoint, meta={}), tmp_path / 'net.pth')
    ours = MobileNetV2(
        0.35,
        act_cfg=dict(type='DyReLUB'),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth'), prefix='backbone.'),
    )
    ours.init_weights()
    mine = {key: value for key, value in ours.state_dict().items() if '.activate.' not in key}
    values = list(theirs.state_dict().values())
    assert len(mine) == len(values)
    assert all(torch.equal(a, b) for a, b in zip(mine.values(), values, strict=True))


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(
    ('arch', 'width', 'theirs'),
    [
        ('small', 1.0, 'small'),
        ('small', 0.75, 'small_075'),
        ('small', 0.5, 'small_050'),
        ('large', 1.0, 'large'),
    ],
)
def test_v3_equals_mmpretrain(arch, width, theirs, training):
    out_indices = (0, 3, 9, 12 if arch == 'small' else 16)
    theirs = original('mmpretrain', 'MobileNetV3', arch=theirs, out_indices=out_indices)
    ours = MobileNetV3(arch, width, out_indices=out_indices)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_equal(theirs, ours, training)


@pytest.mark.parametrize('name', ['MobileNetV2', 'MobileNetV3'])
def test_initialisation_is_mmpretrains(name):
    """The same random numbers in the same order give the same weights."""
    theirs = original('mmpretrain', name)
    ours = MODELS.build(dict(type=f'mmact.{name}'))
    for net in (theirs, ours):
        torch.manual_seed(0)
        net.init_weights()
    for key, value in theirs.state_dict().items():
        if key.endswith(('weight', 'bias')):
            assert torch.equal(value, ours.state_dict()[key]), key
