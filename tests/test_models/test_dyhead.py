# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.DyHead is MMDetection's DyHead, on mmact's op."""

import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.models.layers import DyReLU
from mmengine.hub import get_config
from mmengine.registry import MODELS
from test_ops.utils import assert_near, random_tensor, with_gradients

import mmact  # noqa: F401  registers
from mmact.activations import DyReLUB


def build(kind, **kwargs):
    torch.manual_seed(0)
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        return registry.build(
            dict(type=kind, in_channels=8, out_channels=16, num_blocks=2, **kwargs)
        )


def randomise(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn_like(p))


def test_equal_outputs_on_the_same_weights():
    """Of the layer, its gradients, and of the neck: MMDetection's checkpoints load."""
    theirs, ours = build('DyHead'), build('mmact.DyHead')
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    pairs = zip(theirs.dyhead_blocks, ours.dyhead_blocks, strict=True)
    for block, other in pairs:
        layer, mine = block.task_attn_module, other.task_attn_module
        assert isinstance(layer, DyReLU)
        assert isinstance(mine, DyReLUB)
        x = random_tensor((2, 16, 9, 7), torch.float32)
        grad = random_tensor(x.shape, torch.float32, seed=1)
        for a, b in zip(*(with_gradients(m, x, (), grad) for m in (mine, layer)), strict=True):
            assert_near(a, b, 2e-6)
    levels = [random_tensor((2, 8, n, n), torch.float32, seed=n) for n in (16, 8, 4)]
    for a, b in zip(ours(levels), theirs(levels), strict=True):
        assert_near(a, b, 1e-5)
    again = build('mmact.DyHead')
    again.load_state_dict(ours.state_dict())
    for a, b in zip(again(levels), ours(levels), strict=True):
        assert torch.equal(a, b)


def test_starts_as_mmdetections():
    theirs, ours = build('DyHead'), build('mmact.DyHead')
    for p in ours.dyhead_blocks[0].task_attn_module.parameters():
        assert p.std() < 0.02 or p.numel() == 1
    levels = [random_tensor((1, 8, n, n), torch.float32) for n in (8, 4)]
    assert [y.shape for y in ours(levels)] == [y.shape for y in theirs(levels)]


def test_one_option_switches_a_config():
    """``--cfg-options model.neck.1.type=mmact.DyHead`` on MMDetection's own config."""
    cfg = get_config('mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py')
    cfg.merge_from_dict({'model.neck.1.type': 'mmact.DyHead', 'model.backbone.init_cfg': None})
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(cfg.model)
    layers = [m for m in model.modules() if isinstance(m, DyReLUB)]
    assert len(layers) == 6
    assert not [m for m in model.modules() if isinstance(m, DyReLU)]
    model.init_weights()
    outputs = model(torch.randn(1, 3, 64, 64), None, mode='tensor')
    sum(t.square().mean() for level in outputs for t in level).backward()
    assert all(m.fc2_weight.grad.abs().sum() > 0 for m in layers)
