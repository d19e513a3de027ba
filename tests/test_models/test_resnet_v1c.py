# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact.ResNetV1c against MMSegmentation's: same numbers, same keys, separate activations."""

import pytest
import torch
from processes import run_code
from torch import nn
from twins import assert_one_call_each, assert_same_step, draw_norms

pytest.importorskip('mmseg')

from mmseg.models.backbones import ResNetV1c as MMSegResNetV1c

from mmact.activations import PWLU, FReLU
from mmact.models.backbones.resnet_v1c import BasicBlock, Bottleneck, ResNetV1c
from mmact.registry import MODELS

# As MMSegmentation's own configs have it.
DILATED = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True)
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3')
NON_LOCAL = dict(cfg=dict(type='NonLocal2d', use_scale=False), position='after_conv1')
OPTIONS = [
    dict(depth=18),
    dict(depth=34, act_cfg=dict(type='ReLU', inplace=False)),
    dict(depth=101, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 2)),
    dict(depth=50, **DILATED),
    dict(depth=50, **DILATED, multi_grid=(1, 2, 4)),
    dict(depth=18, with_cp=True),
    dict(depth=50, with_cp=True, style='caffe'),
    dict(depth=50, plugins=[CONTEXT, NON_LOCAL]),
    dict(
        depth=50, dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, False, True, True)
    ),
    dict(depth=18, norm_cfg=dict(type='GN', num_groups=4), frozen_stages=1),
]


def _label(options: dict) -> str:
    return ' '.join(k if k != 'depth' else str(v) for k, v in options.items())


def _pair(act_cfg: dict | None = None, **options) -> tuple[MMSegResNetV1c, ResNetV1c]:
    """MMSegmentation's network and mmact's with the same random weights."""
    torch.manual_seed(0)
    options = {'base_channels': 8, 'stem_channels': 8, **options}
    theirs = MMSegResNetV1c(**options)
    theirs.init_weights()
    draw_norms(theirs)
    ours = ResNetV1c(act_cfg=act_cfg, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('options', OPTIONS, ids=_label)
def test_equals_mmseg_bit_for_bit(options, training):
    theirs, ours = _pair(**options)
    # mmcv's deformable convolution wants 3 x 3 pixels at least.
    x = torch.randn(2, 3, *((96, 96) if 'dcn' in options else (32, 32)))
    # MMSegmentation's re-entrant checkpoints add a stage's gradients in another order: equal to
    # rounding only, which float64 keeps small.
    if 'with_cp' in options:
        assert_same_step(theirs, ours, x.double(), training, 1e-9)
    else:
        assert_same_step(theirs, ours, x, training)


@pytest.mark.parametrize('depth', [18, 50])
def test_every_call_site_has_its_own_activation(depth):
    net = ResNetV1c(depth, base_channels=8, stem_channels=8, act_cfg=dict(type='PWLU'))
    acts = [module for module in net.modules() if isinstance(module, PWLU)]
    blocks = [m for m in net.modules() if isinstance(m, (BasicBlock, Bottleneck))]
    assert len(acts) == 3 + len(blocks) * (2 if depth == 18 else 3)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    assert_one_call_each(net, PWLU, torch.randn(2, 3, 32, 32))


def test_relu_checkpoint_loads_and_gives_the_same_function():
    theirs = MMSegResNetV1c(depth=50, base_channels=8)
    ours = ResNetV1c(50, base_channels=8, act_cfg=dict(type='PWLU'))
    theirs.eval()
    ours.eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all('.act' in name or name.startswith('stem.') for name in missing)
    # PWLU starts as ReLU; the tolerance is for the sum over interval and slope in float32.
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(theirs(x), ours(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_frozen_stages_freeze_their_activations():
    net = ResNetV1c(18, base_channels=8, frozen_stages=1, act_cfg=dict(type='FReLU'))
    net.train()
    for frozen in (net.stem, net.layer1):
        assert not any(p.requires_grad for p in frozen.parameters())
        assert not any(m.training for m in frozen.modules())
    for learned in (net.layer2, net.layer3, net.layer4):
        assert all(p.requires_grad for p in learned.parameters())
        assert all(m.training for m in learned.modules())


def test_builds_from_config_in_any_scope():
    for scope in (None, 'mmseg'):
        cfg = dict(type='mmact.ResNetV1c', depth=18, base_channels=8, act_cfg=dict(type='FReLU'))
        if scope is not None:
            cfg['_scope_'] = scope
        net = MODELS.build(cfg)
        assert isinstance(net, ResNetV1c)
        assert isinstance(net.stem[2], FReLU)
    theirs = MODELS.build(dict(type='mmseg.ResNetV1c', depth=18))
    assert not isinstance(theirs, ResNetV1c)
    assert not isinstance(theirs.layer1[0], BasicBlock)


def test_unknown_activation_and_depth():
    with pytest.raises(KeyError, match='PWLUU'):
        ResNetV1c(18, act_cfg=dict(type='PWLUU'))
    with pytest.raises(KeyError, match='depth 17'):
        ResNetV1c(17)


def test_without_mmseg_one_sentence_says_what_to_install(tmp_path):
    code = (
        # Neither, because importing MMDetection takes long.
        'import sys; sys.modules["mmseg"] = sys.modules["mmdet"] = None\n'
        'import mmact\n'
        'from mmengine.registry import MODELS\n'
        'MODELS.build(dict(type="mmact.ResNetV1c", depth=18))'
    )
    status, output = run_code(tmp_path, code)
    assert status == 1
    assert output.strip().splitlines()[-1] == (
        "ImportError: mmact.ResNetV1c extends MMSegmentation's ResNetV1c, and mmseg is not "
        'installed: pip install onedl-mmsegmentation (or mmsegmentation)'
    )
