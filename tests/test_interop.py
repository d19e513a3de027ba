# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact's activations in models of timm and transformers, by the ways those have."""

import pytest
import torch

import mmact
from mmact.activations import PAU, PWLU, AReLU, DiTAC, DyReLUB, unresolved


@pytest.mark.parametrize(
    ('name', 'act', 'sites'),
    [
        ('resnet18', PWLU, 17),
        ('resnet18', DyReLUB, 17),
        ('convnext_atto', DiTAC, 12),
        ('vit_tiny_patch16_224', PWLU, 12),
        # Activations in BatchNorms.
        ('tf_mobilenetv3_small_minimal_100', PWLU, 24),
        ('densenet121', AReLU, 121),
        ('densenet121', PWLU, 121),
        ('regnetx_002', PAU, 40),
    ],
)
def test_act_layer_of_timm(name, act, sites):
    timm = pytest.importorskip('timm')
    model = timm.create_model(name, act_layer=act).eval()
    acts = [m for m in model.modules() if isinstance(m, act)]
    assert len(acts) == sites
    assert not unresolved(model)
    side = 224 if 'vit' in name else 64
    model(torch.randn(1, 3, side, side)).sum().backward()
    parameters = [p for act in acts for p in act.parameters()]
    assert all(p.grad is not None for p in parameters)


def test_hidden_act_of_transformers():
    transformers = pytest.importorskip('transformers')
    mmact.register_with_transformers()
    assert mmact.register_with_transformers() == []
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    ids = torch.arange(6).view(1, 6)
    for name, act, channels in (
        ('pwlu', PWLU, 24),
        ('pwlu_layer', PWLU, None),
        ('ditac', DiTAC, None),
        ('dyrelub', DyReLUB, 24),
    ):
        model = transformers.BertModel(transformers.BertConfig(hidden_act=name, **small))
        acts = [m for m in model.modules() if isinstance(m, act)]
        assert len(acts) == 2
        assert acts[0].num_channels == channels
        assert model(ids).last_hidden_state.shape == (1, 6, 16)
    vit = transformers.ViTConfig(hidden_act='pau', image_size=32, patch_size=8, **small)
    assert transformers.ViTModel(vit)(torch.randn(1, 3, 32, 32)).last_hidden_state.isfinite().all()


def test_convert_on_transformers():
    """Gated MLPs, whose activation is registered behind another layer, by the dry run."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=50,
        hidden_act='gelu',
    )
    model = transformers.LlamaModel(config).eval()
    ids = torch.arange(6).view(1, 6)
    before = model(ids).last_hidden_state
    report = mmact.convert(model, dict(type='PWLU'), example=dict(input_ids=ids))
    assert [r.channels for r in report.replaced] == [24, 24]
    difference = (model(ids).last_hidden_state - before).abs().max()
    assert difference <= 0.02 * before.abs().max()
    model = transformers.LlamaModel(config).eval()
    report = mmact.convert(model, dict(type='DiTAC'), example=dict(input_ids=ids))
    assert len(report.replaced) == 2
    assert report.difference <= 1e-5
