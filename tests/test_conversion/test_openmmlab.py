# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of the codebases' models, by ``mmact.convert`` and ``type='mmact.Converted'``."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_state_dict
from mmengine.utils import get_installed_path

import mmact
from mmact.activations import PWLU, Activation, DiTAC, unresolved


def model_cfg(package, path):
    cfg = Config.fromfile(f'{get_installed_path(package)}/.mim/configs/{path}')
    init_default_scope(cfg.default_scope)
    for part in (cfg.model, cfg.model.backbone):
        part.pop('init_cfg', None)
        part.pop('pretrained', None)
    return cfg.model


@pytest.mark.parametrize('act', ['PWLU', 'DyReLUB'])
def test_frozen_stages_keep_nothing_for_backward(act):
    """frozen_stages=1: the stem and layer1 are functions, the stem's activation included."""
    cfg = model_cfg('mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py')
    model = MODELS.build(cfg)
    mmact.convert(model, dict(type=act), example=(1, 3, 64, 64))
    backbone = model.train().backbone
    x = backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(torch.randn(1, 3, 64, 64)))))
    assert not backbone.layer1(x).requires_grad
    assert backbone.layer2(backbone.layer1(x)).requires_grad
    assert all(p.requires_grad for m in backbone.layer2.modules() for p in _own(m))


def _own(module):
    return module.parameters() if isinstance(module, Activation) else ()


@pytest.mark.parametrize(
    ('package', 'path', 'act', 'sites', 'tolerance'),
    [
        ('mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py', PWLU, 25, 1e-5),
        ('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', PWLU, 76, None),
        ('mmdet', 'detr/detr_r50_8xb2-150e_coco.py', PWLU, 63, 1e-4),
        ('mmseg', 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', PWLU, 24, 1e-5),
        ('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', DiTAC, 13, 1e-4),
    ],
)
def test_official_configs(package, path, act, sites, tolerance):
    cfg = model_cfg(package, path)
    torch.manual_seed(0)
    original = MODELS.build(copy.deepcopy(cfg)).eval()
    state = copy.deepcopy(original.state_dict())
    kind = cfg.pop('type')
    converted = MODELS.build(
        dict(
            type='mmact.Converted',
            original=kind,
            act_cfg=dict(type=act.__name__),
            example=(1, 3, 128, 128),
            **cfg,
        )
    ).eval()
    assert type(converted) is type(original)
    acts = [m for m in converted.modules() if isinstance(m, Activation)]
    assert len(acts) == sites
    assert all(isinstance(m, act) for m in acts)
    assert not unresolved(converted)
    assert set(state) <= set(converted.state_dict())
    load_state_dict(converted, state)
    x = torch.randn(1, 3, 128, 128)
    if tolerance is None:  # SiLU's table: the differences of 76 sites on features close to 0 add up
        return
    with torch.no_grad():
        before, after = original.extract_feat(x), converted.extract_feat(x)
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


CONFIGS = sorted((Path(__file__).resolve().parents[2] / 'configs/conversion').glob('*.py'))


# DINO, Mask2Former and RTMDet are there with DiTAC too: the same but for the activation.
TWINS = {p: p.with_name(p.name.replace('ditac', 'pwlu')) for p in CONFIGS if 'ditac' in p.stem}


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p not in TWINS or 'segformer' in p.stem], ids=lambda p: p.stem
)
def test_configs(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    cfg.model.pop('pretrained', None)
    if 'num_queries' in cfg.model:  # DINO's, more than a small picture has places for
        cfg.model.num_queries = 30
    if cfg.model.original == 'MaskRCNN':  # the dry run need not look at a thousand boxes
        cfg.model.train_cfg.rpn_proposal.max_per_img = 8
        cfg.model.train_cfg.rcnn.sampler.num = 8
        cfg.model.test_cfg.rpn.max_per_img = 8
    model = MODELS.build(dict(cfg.model, example=(1, 3, 128, 128)))
    kind = PWLU if 'pwlu' in path.stem else DiTAC
    acts = [m for m in model.modules() if isinstance(m, Activation)]
    assert acts
    assert all(type(m) is kind for m in acts)
    readme = path.with_name('README.md').read_text()
    row = next(line for line in readme.splitlines() if path.name in line)
    assert f' {len(acts)} ' in row
    assert model.extract_feat(torch.randn(1, 3, 128, 128))


@pytest.mark.parametrize('path', TWINS, ids=lambda p: p.stem)
def test_twins_differ_in_the_activation_alone(path):
    ditac, pwlu = Config.fromfile(path), Config.fromfile(TWINS[path])
    assert ditac.model.pop('act_cfg') == dict(type='DiTAC')
    assert pwlu.model.pop('act_cfg') == dict(type='PWLU')
    assert ditac.model == pwlu.model
    assert path.name in path.with_name('README.md').read_text()


def test_a_part_of_a_model():
    init_default_scope('mmdet')
    backbone = MODELS.build(
        dict(type='mmact.Converted', original='ResNet', depth=18, act_cfg=dict(type='PWLU'))
    )
    acts = [m for m in backbone.modules() if isinstance(m, PWLU)]
    assert len(acts) == 17
    assert len(backbone(torch.randn(1, 3, 64, 64))) == 4
    assert not any(isinstance(m, nn.ReLU) for m in backbone.modules())


def test_nothing_to_convert_is_an_error():
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match='nothing in ResNet was replaced'):
        MODELS.build(
            dict(
                type='mmact.Converted',
                original='ResNet',
                depth=18,
                act_cfg=dict(type='PWLU'),
                replaces='SiLU',
            )
        )


def test_a_shared_head_stays_shared():
    init_default_scope('mmdet')
    cfg = model_cfg('mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py')
    model = MODELS.build(cfg)
    report = mmact.convert(model, dict(type='PWLU'), example=(1, 3, 128, 128))
    heads = [r.path for r in report.replaced if r.path.startswith('bbox_head')]
    assert len(heads) == 8, 'four convolutions for each of two branches, whatever the levels'


@pytest.mark.parametrize(
    ('package', 'path'),
    [
        ('mmdet', 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'),
        ('mmpose', 'body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py'),
        ('mmpretrain', 'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py'),
    ],
)
def test_made_samples_reach_all_of_a_model(package, path):
    """Forward and losses run on the samples that are made, so that all call sites are seen."""
    pytest.importorskip(package)
    report = mmact.convert(MODELS.build(model_cfg(package, path)), dict(type='PWLU'))
    assert report.notes == []
    assert report.replaced
    assert all(r.low is not None for r in report.replaced)
    assert not any('dry run' in kept.reason for kept in report.kept)
