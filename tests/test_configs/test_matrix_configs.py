# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Configs of configs/matrix: five families, three activations at the same places, baselines."""

import re
from pathlib import Path

import pytest
import torch
from marks import slow_unless
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from test_configs import find_activations, load, one_of_each, without_scope
from torch import nn

pytest.importorskip('mmpose')

from mmact.activations import PWLU, DiTAC, DyReLUC, unresolved

FOLDER = Path(__file__).resolve().parents[2] / 'configs/matrix'
CONFIGS = {p.stem: p for p in sorted(FOLDER.glob('*.py'))}
ACTIVATIONS = dict(dyreluc=DyReLUC, pwlu=PWLU, ditac=DiTAC)
WORD = re.compile('-(dyreluc|pwlu|ditac)(?=_)')
# Where a baseline is, how many places of it have an activation that is replaced, and how long
# PWLU's phase I lasts.
FAMILIES = {
    'mask-rcnn_r50_fpn_1x_coco': ('mmdet', 'mask_rcnn', 49 + 1 + 1 + 5, 1),
    'retinanet_r50_fpn_1x_coco': ('mmdet', 'retinanet', 49 + 8, 1),
    'td-hm_res50_8xb64-210e_coco-256x192': (
        'mmpose',
        'body_2d_keypoint/topdown_heatmap/coco',
        49 + 3,
        5,
    ),
    'upernet_r50_4xb4-80k_ade20k-512x512': ('mmseg', 'upernet', 51 + 8 + 1, 6315),
    'upernet_r50_4xb2-40k_cityscapes-512x1024': ('mmseg', 'upernet', 51 + 8 + 1, 1859),
    'pspnet_r50-d8_4xb4-80k_ade20k-512x512': ('mmseg', 'pspnet', 51 + 1 + 1, 6315),
    'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024': ('mmseg', 'pspnet', 51 + 1 + 1, 1859),
}
WHOLE = [name for name in CONFIGS if WORD.sub('', name) in FAMILIES and WORD.search(name)]
FROM_SCRATCH = [name for name in CONFIGS if 'irhead' in name]


def build(name: str, tmp_path: Path) -> nn.Module:
    cfg = load(CONFIGS[name], tmp_path, {})
    cfg.model.backbone.init_cfg = None
    cfg.model.pop('pretrained', None)
    if cfg.model.original == 'MaskRCNN':
        # The dry run need not look at a thousand boxes.
        cfg.model.train_cfg.rpn_proposal.max_per_img = 8
        cfg.model.train_cfg.rcnn.sampler.num = 8
        cfg.model.test_cfg.rpn.max_per_img = 8
    return MODELS.build(dict(cfg.model, example=(1, 3, 64, 64)))


def test_the_matrix_is_full():
    whole = {name.replace('_', f'-{word}_', 1) for name in FAMILIES for word in ACTIVATIONS}
    assert set(WHOLE) == whole
    assert set(CONFIGS) == whole | set(FAMILIES) | set(FROM_SCRATCH)
    assert len(FROM_SCRATCH) == 2


@pytest.mark.parametrize('name', [name for name in WHOLE if 'cityscapes' in name])
def test_models_of_cityscapes_are_those_of_ade20k(name, tmp_path):
    """But for the classes, and for the size that pictures are padded to."""
    models = []
    for other in (name, name.replace('4xb2-40k_cityscapes-512x1024', '4xb4-80k_ade20k-512x512')):
        model = load(CONFIGS[other], tmp_path, {}).model
        model.data_preprocessor.pop('size')
        for head in ('decode_head', 'auxiliary_head'):
            model[head].pop('num_classes')
        models.append(model)
    assert models[0] == models[1]


# Each activation in one family, each family with one of them.
QUICK = one_of_each(
    [name for name in WHOLE if 'cityscapes' not in name],
    lambda name: WORD.sub('', name),
    lambda name: WORD.search(name)[1],
)


@pytest.mark.parametrize(
    'name',
    slow_unless(QUICK.__contains__, [name for name in WHOLE if 'cityscapes' not in name]),
)
def test_builds_at_full_size(name, tmp_path):
    model = build(name, tmp_path)
    kind = ACTIVATIONS[WORD.search(name)[1]]
    sites = FAMILIES[WORD.sub('', name)][2]
    acts = {path: m for path, m in model.named_modules() if isinstance(m, kind)}
    assert len(acts) == sites
    assert not any('psp_modules' in path for path in acts)
    assert not unresolved(model)
    # Each starts as the ReLU that was there.
    x = torch.linspace(-2, 2, 9)
    act = next(iter(acts.values()))
    shape = (1, act.num_channels or 1, 1, 1)
    y = act(x.view(9, 1, 1, 1).expand(9, *shape[1:]))
    torch.testing.assert_close(y, x.relu().view(9, 1, 1, 1).expand_as(y))
    readme = (FOLDER / 'README.md').read_text()
    row = next(line for line in readme.splitlines() if CONFIGS[name].name in line)
    assert f'| {sites} |' in row


@pytest.mark.parametrize('name', WHOLE)
def test_only_the_activation_differs_from_the_baseline(name, tmp_path):
    cfg, twin = load(CONFIGS[name], tmp_path, {}), WORD.sub('', name)
    base = load(CONFIGS[twin], tmp_path, {})
    kind = ACTIVATIONS[WORD.search(name)[1]]
    assert cfg.model.pop('type') == 'mmact.Converted'
    assert cfg.model.pop('original') == base.model.pop('type')
    assert cfg.model.pop('act_cfg') == dict(type=kind.__name__)
    segments = cfg.default_scope == 'mmseg'
    # The maps of 1 x 1 to 6 x 6 keep their ReLU: PWLU's section 4.1.
    assert cfg.model.pop('exclude', None) == ('psp_modules' if segments else None)
    assert cfg.optim_wrapper.pop('constructor') == 'ActivationParamConstructor'
    hooks = cfg.pop('custom_hooks', None) or []
    phase1 = [hook.phase1 for hook in hooks if hook.type == 'PWLURealignHook']
    assert phase1 == ([FAMILIES[twin][3]] if kind is PWLU else [])
    assert [h for h in hooks if h.type != 'PWLURealignHook'] == (
        base.pop('custom_hooks', None) or []
    )
    for key in ('custom_imports', 'everywhere', 'constructor', 'work_dir'):
        cfg.pop(key, None)
        base.pop(key, None)
    assert cfg._cfg_dict == base._cfg_dict


@pytest.mark.parametrize('name', FAMILIES)
def test_official_baselines_are_untouched(name):
    codebase, folder, *_ = FAMILIES[name]
    theirs = Config.fromfile(f'{get_installed_path(codebase)}/.mim/configs/{folder}/{name}.py')
    ours = Config.fromfile(CONFIGS[name])
    assert without_scope(ours._cfg_dict) == without_scope(theirs._cfg_dict)


@pytest.mark.parametrize('name', FROM_SCRATCH)
def test_key_points_from_scratch(name, tmp_path):
    """Table 10's network of the Dynamic ReLU paper with other activations at A1 and A2."""
    word = re.search('-(pwlu|ditac)_irhead', name)[1]
    cfg = load(CONFIGS[name], tmp_path, {})
    twin = FOLDER.parent / f'dyrelu/{name.replace(word, "relu")}.py'
    base = load(twin, tmp_path, {})
    kind = ACTIVATIONS[word]
    init_default_scope('mmpose')
    backbone, head = (MODELS.build(cfg.model[part]) for part in ('backbone', 'head'))
    assert [len(find_activations(part)) for part in (backbone, head)] == [2 + 17 * 2 - 1, 7]
    assert {type(m) for m in find_activations(backbone)} == {kind}
    assert head(backbone(torch.zeros(1, 3, 64, 64))).shape == (1, 17, 16, 16)
    for part in ('backbone', 'head'):
        assert cfg.model[part].pop('act_cfg') == dict(type=kind.__name__)
        assert base.model[part].pop('act_cfg') == dict(type='ReLU')
    assert cfg.optim_wrapper.pop('constructor') == 'ActivationParamConstructor'
    hooks = {hook.type: hook.get('phase1') for hook in cfg.pop('custom_hooks')}
    assert hooks.pop('PWLURealignHook', None) == (5 if kind is PWLU else None)
    assert set(hooks) == {hook.type for hook in base.pop('custom_hooks')}
    del cfg._cfg_dict['work_dir'], base._cfg_dict['work_dir']
    assert cfg._cfg_dict == base._cfg_dict
