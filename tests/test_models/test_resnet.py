# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.ResNet against MMDetection's: same numbers with ReLU, same keys, separate activations."""

import pytest
import torch
from processes import run_code
from torch import nn
from twins import assert_one_call_each, assert_same_step, draw_norms

pytest.importorskip('mmdet')

from mmdet.models.backbones import ResNet as MMDetResNet
from mmdet.models.backbones.resnet import BasicBlock as MMDetBasicBlock

from mmact.activations import PWLU, FReLU
from mmact.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmact.registry import MODELS

CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3')
ATTENTION = dict(
    cfg=dict(type='GeneralizedAttention', num_heads=2, attention_type='0010', kv_stride=2),
    position='after_conv2',
)
AFTER_FIRST = dict(cfg=dict(type='NonLocal2d', use_scale=False), position='after_conv1')
OPTIONS = [
    dict(depth=18),
    dict(depth=34),
    dict(depth=50),
    dict(depth=101),
    dict(depth=152),
    dict(depth=18, act_cfg=dict(type='ReLU')),
    dict(depth=50, act_cfg=dict(type='ReLU', inplace=False)),
    dict(depth=18, with_cp=True),
    dict(depth=50, with_cp=True),
    dict(depth=18, deep_stem=True, avg_down=True),
    dict(depth=50, deep_stem=True, stem_channels=16),
    dict(depth=50, style='caffe', norm_eval=False, zero_init_residual=False),
    dict(depth=50, plugins=[CONTEXT, ATTENTION, AFTER_FIRST]),
    dict(depth=50, plugins=[dict(CONTEXT, stages=(False, True, True, False))]),
    dict(
        depth=50, dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=(False, False, True, True)
    ),
    dict(
        depth=50,
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    dict(depth=18, norm_cfg=dict(type='GN', num_groups=4), frozen_stages=1),
    dict(depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), out_indices=(1, 3)),
    dict(depth=18, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)),
]


def _label(options: dict) -> str:
    return ' '.join(k if k != 'depth' else str(v) for k, v in options.items())


def _pair(act_cfg: dict | None = None, **options) -> tuple[MMDetResNet, ResNet]:
    """MMDetection's network and mmact's with the same random weights."""
    torch.manual_seed(0)
    options = {'base_channels': 8, 'norm_eval': False, **options}
    theirs = MMDetResNet(**options)
    theirs.init_weights()
    draw_norms(theirs)
    ours = ResNet(act_cfg=act_cfg, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('options', OPTIONS, ids=_label)
def test_equals_mmdet_bit_for_bit(options, training):
    theirs, ours = _pair(**options)
    # mmcv's deformable convolution wants 3 x 3 pixels at least.
    x = torch.randn(2, 3, *((96, 96) if 'dcn' in options else (32, 32)))
    # MMDetection's re-entrant checkpoints add a stage's gradients in another order: equal to
    # rounding only, which float64 keeps small.
    if 'with_cp' in options:
        assert_same_step(theirs, ours, x.double(), training, 1e-9)
    else:
        assert_same_step(theirs, ours, x, training)


@pytest.mark.parametrize('deep_stem', [False, True])
@pytest.mark.parametrize('depth', [18, 50])
def test_every_call_site_has_its_own_activation(depth, deep_stem):
    net = ResNet(depth, base_channels=8, deep_stem=deep_stem, act_cfg=dict(type='PWLU'))
    acts = [module for module in net.modules() if isinstance(module, PWLU)]
    blocks = [m for m in net.modules() if isinstance(m, (BasicBlock, Bottleneck))]
    assert len(acts) == (3 if deep_stem else 1) + len(blocks) * (2 if depth == 18 else 3)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    assert_one_call_each(net, PWLU, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize('depth', [18, 50])
def test_relu_checkpoint_loads_and_gives_the_same_function(depth):
    theirs = MMDetResNet(depth, base_channels=8)
    ours = ResNet(depth, base_channels=8, act_cfg=dict(type='PWLU'))
    theirs.eval()
    ours.eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all('.act' in f'.{name}' for name in missing)
    # PWLU starts as ReLU; the tolerance is for the sum over interval and slope in float32.
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(theirs(x), ours(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_zero_init_residual_reaches_the_blocks():
    for depth, last in ((18, 'norm2'), (50, 'norm3')):
        net = ResNet(depth, base_channels=8, act_cfg=dict(type='PWLU'))
        net.init_weights()
        blocks = [m for m in net.modules() if isinstance(m, (BasicBlock, Bottleneck))]
        assert all(not getattr(block, last).weight.any() for block in blocks)
        net = ResNet(depth, base_channels=8, zero_init_residual=False)
        net.init_weights()
        blocks = [m for m in net.modules() if isinstance(m, (BasicBlock, Bottleneck))]
        assert all(getattr(block, last).weight.all() for block in blocks)


@pytest.mark.parametrize('deep_stem', [False, True])
@pytest.mark.parametrize('act', ['PWLU', 'FReLU'])
def test_frozen_stages_freeze_their_activations(act, deep_stem):
    net = ResNet(
        18,
        base_channels=8,
        frozen_stages=1,
        deep_stem=deep_stem,
        act_cfg=dict(type=act),
        norm_eval=False,
    )
    net.train()
    stem = net.stem if deep_stem else net.act1
    for frozen in (stem, net.layer1):
        assert not any(p.requires_grad for p in frozen.parameters())
        assert not any(m.training for m in frozen.modules())
    for learned in (net.layer2, net.layer3, net.layer4):
        assert all(p.requires_grad for p in learned.parameters())
        assert all(m.training for m in learned.modules())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    sum(out.sum() for out in net(torch.randn(2, 3, 32, 32))).backward()
    optimizer.step()
    after = net.state_dict()
    frozen = [k for k in before if k.startswith(('stem.', 'conv1.', 'bn1.', 'act1.', 'layer1.'))]
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith('layer2.'))


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('act', ['PWLU', 'FReLU', 'SiLU'])
def test_other_activations_train(act, with_cp):
    net = ResNet(50, base_channels=4, act_cfg=dict(type=act), with_cp=with_cp, norm_eval=False)
    net.train()
    sum(out.square().mean() for out in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_explicit_number_of_channels_wins():
    with pytest.raises(ValueError, match='8'):
        ResNet(18, base_channels=8, act_cfg=dict(type='PWLU', num_channels=4))(
            torch.randn(1, 3, 32, 32)
        )


def test_builds_from_config_in_any_scope():
    for scope in (None, 'mmdet'):
        cfg = dict(type='mmact.ResNet', depth=18, base_channels=8, act_cfg=dict(type='FReLU'))
        if scope is not None:
            cfg['_scope_'] = scope
        net = MODELS.build(cfg)
        assert isinstance(net, ResNet)
        assert isinstance(net.act1, FReLU)
    assert not isinstance(MODELS.build(dict(type='mmdet.ResNet', depth=18)), ResNet)
    assert not isinstance(net.layer1[0], type(MMDetBasicBlock))


def test_unknown_activation_and_depth():
    with pytest.raises(KeyError, match='PWLUU'):
        ResNet(18, act_cfg=dict(type='PWLUU'))
    with pytest.raises(KeyError, match='depth 17'):
        ResNet(17)


def test_without_mmdet_one_sentence_says_what_to_install(tmp_path):
    code = (
        'import sys; sys.modules["mmdet"] = None\n'
        'import mmact\n'
        'from mmengine.registry import MODELS\n'
        'assert MODELS.get("PWLU") is mmact.activations.PWLU\n'
        'MODELS.build(dict(type="mmact.ResNet", depth=18))'
    )
    status, output = run_code(tmp_path, code)
    assert status == 1
    assert output.strip().splitlines()[-1] == (
        "ImportError: mmact.ResNet extends MMDetection's ResNet, and mmdet is not installed: "
        'pip install onedl-mmdetection (or mmdet)'
    )
