# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Contents of the configs of configs/ditac; that they train is tested with all others."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import get_installed_path
from test_configs import CONFIGS, find_activations, kind_of, load, without_scope
from torch import nn

from mmact.activations import PWLU, DiTAC, DyReLUC

DITAC = {p.stem: p for p in CONFIGS if p.parent.name == 'ditac'}


@pytest.mark.parametrize('path', DITAC.values(), ids=DITAC)
def test_settings_of_the_paper(path, tmp_path):
    cfg = load(path, tmp_path, {})
    name = re.sub(r'-(ditac|gelu|relu|pwlu|arelu|dyreluc)(?=_)', '', path.stem)
    family = name.split('_')[0].split('-')[0]
    base = Config.fromfile(get_installed_path('mmseg') + f'/.mim/configs/{family}/{name}.py')

    crop, batch, iterations, power = (
        ((512, 1024), 8, 40000, 0.9) if family == 'pspnet' else ((512, 512), 16, 160000, 1.0)
    )
    optimizer = (
        dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
        if family == 'pspnet'
        else dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    )
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.train_cfg.max_iters == iterations
    assert (cfg.param_scheduler[-1].type, cfg.param_scheduler[-1].power) == ('PolyLR', power)
    assert cfg.param_scheduler[-1].end == iterations
    assert cfg.crop_size == crop
    gpus = int(re.search(r'_(\d)xb', name)[1])
    assert gpus * cfg.train_dataloader.batch_size == batch

    # In all parts, and nothing else differs from the baseline.
    kind = kind_of(path)
    for part in ('backbone', 'decode_head', 'auxiliary_head'):
        act_cfg = cfg.model[part].pop('act_cfg')
        assert MODELS.get(act_cfg.type) is kind
        base.model[part].pop('act_cfg', None)
    if kind is PWLU:  # section 4.1 of its paper: not on tiny maps
        head = cfg.model.decode_head
        assert (head.type, head.pop('exclude')) == ('mmact.Converted', 'psp_modules')
        head.type = head.pop('original')
    if family == 'pspnet':
        assert cfg.model.backbone.type == 'mmact.ResNetV1c'
        cfg.model.backbone.type = 'ResNetV1c'
    keys = ['model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'param_scheduler']
    if family != 'convnext':
        assert cfg.optim_wrapper.pop('constructor') == 'ActivationParamConstructor'
        keys.append('optim_wrapper')
    for key in keys:
        assert without_scope(cfg[key]) == without_scope(base[key]), key
    hooks = {hook.type: hook.phase1 for hook in cfg.get('custom_hooks', [])}
    # 5 epochs of 2975 and of 20210 pictures.
    phase1 = 1859 if family == 'pspnet' else 6315
    assert hooks == ({'PWLURealignHook': phase1} if kind is PWLU else {})


def test_activations_of_a_part_can_be_chosen(tmp_path):
    heads = {f'model.{head}.act_cfg.type': 'ReLU' for head in ('decode_head', 'auxiliary_head')}
    forget = {f'model.{head}.act_cfg._delete_': True for head in ('decode_head', 'auxiliary_head')}
    name = 'swin-tiny-patch4-window7-in1k-pre-{}_upernet_8xb2-160k_ade20k-512x512'
    for act, options, backbone, head in (
        ('ditac', heads, DiTAC, nn.ReLU),
        ('ditac', {'model.backbone.act_cfg.type': 'GELU'}, nn.GELU, DiTAC),
        ('dyreluc', heads | forget, DyReLUC, nn.ReLU),
    ):
        model = MODELS.build(load(DITAC[name.format(act)], tmp_path, options).model)
        assert {type(m) for m in find_activations(model.backbone)} == {backbone}
        for part, sites in ((model.decode_head, 12), (model.auxiliary_head, 1)):
            assert [type(m) for m in find_activations(part)] == [head] * sites


def test_weights_of_gelu_fit_ditac(tmp_path):
    """With theta = 0 the models are those with GELU, but for rounding."""
    name = 'convnext-tiny-{}_upernet_8xb2-amp-160k_ade20k-512x512'
    gelu, ditac = (
        MODELS.build(load(DITAC[name.format(act)], tmp_path, {}).model).eval()
        for act in ('gelu', 'ditac')
    )
    missing, unexpected = ditac.load_state_dict(gelu.state_dict(), strict=False)
    assert not unexpected
    assert {key.rpartition('.')[2] for key in missing} == {'theta'}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(gelu.extract_feat(x), ditac.extract_feat(x), strict=True):
            # 3.4e-6 is the largest difference seen, of values up to 4.8.
            torch.testing.assert_close(b, a, rtol=1e-5, atol=2e-5)
