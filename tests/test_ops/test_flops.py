# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ops are counted by PyTorch's and MMEngine's counters, the same, and as by hand."""

import pytest
import torch
from torch import nn

from mmact import list_activations
from mmact.activations import (
    APL,
    PAU,
    PWLU,
    XIELU,
    AconC,
    Activation,
    AReLU,
    DiTAC,
    DyReLUB,
    DyReLUC,
    StarReLU,
    norm_act,
)
from mmact.ops import flops

flop_counter = pytest.importorskip('torch.utils.flop_counter')
if not hasattr(flop_counter, 'register_flop_formula'):
    pytest.skip('PyTorch before 2.2 has no registry of formulas', allow_module_level=True)

B, C, H, W = 1, 8, 6, 5
OWN = [r.cls for r in list_activations() if issubclass(r.cls, Activation)]


def counted(act, x, backward=False):
    """Multiply-adds by PyTorch's counter."""
    x = x.clone().requires_grad_(backward)
    with flop_counter.FlopCounterMode(display=False) as counter:
        out = act(x)
        if backward:
            out.sum().backward()
    return counter.get_total_flops() / 2


def test_every_op_has_a_formula():
    names = {
        schema.name.partition('::')[2]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith('mmact::')
    }
    assert names
    # What is differentiable again is made of PyTorch's operations.
    assert {n for n in names if not n.endswith('_differentiable')} == set(flops.MADDS)


@pytest.mark.parametrize(
    ('act', 'per_element', 'per_sample'),
    [
        (lambda: PWLU(C), 1, 0),
        (lambda: APL(C), 1, 0),
        (lambda: PAU(), 5 + 4 + 1, 0),
        (lambda: PAU(m=3, n=2, version='C'), 3 + 2 + 1, 0),
        (lambda: StarReLU(), 2, 0),
        (lambda: AconC(C), 5, 0),
        (lambda: XIELU(), 3, 0),
        (lambda: DiTAC(), 14 + 2, 0),
        (lambda: DiTAC(version='leaky'), 14 + 1, 0),
        (lambda: DyReLUB(C, reduction=4, K=3), 3, C * 2 + 2 * 6 * C),
        (lambda: DyReLUC(C, reduction=4), 2 + 2, C * 2 + 2 * 4 * C),
    ],
)
def test_by_hand(act, per_element, per_sample):
    x = torch.randn(B, C, H, W)
    forward = per_element * x.numel() + per_sample * B
    assert counted(act(), x) == forward
    assert counted(act(), x, backward=True) == 3 * forward


@pytest.mark.parametrize('cls', OWN, ids=lambda cls: cls.__name__)
def test_mmengine_counts_the_same(cls):
    analysis = pytest.importorskip('mmengine.analysis')
    model = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), cls()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # which MMEngine counts and PyTorch does not
            module.forward = lambda x: x
    x = torch.randn(B, 3, H, W)
    for kind in (analysis.ActivationAnalyzer, analysis.FlopAnalyzer):
        analyzer = kind(model, (x,))
        analyzer.unsupported_ops_warnings(False).tracer_warnings('none')
        total = analyzer.total()
        assert not [name for name in analyzer.unsupported_ops() if name.startswith('mmact')]
    assert total == counted(model, x)  # the second's


@pytest.mark.parametrize('make', [lambda: PWLU(C), PAU, DiTAC, lambda: AconC(C), XIELU, AReLU])
def test_behind_a_norm(make):
    act, bn, x = make(), nn.BatchNorm2d(C), torch.randn(B, C, H, W, requires_grad=True)
    found = []
    for function in (lambda: norm_act(bn, act, x), lambda: act(bn(x))):
        with flop_counter.FlopCounterMode(display=False) as counter:
            function().sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_a_detector():
    """MMDetection's models, as its tools count them: what PWLU adds is one for each element."""
    pytest.importorskip('mmdet')
    from mmengine.analysis import get_model_complexity_info
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.utils import get_installed_path

    path = f'{get_installed_path("mmdet")}/.mim/configs/retinanet/retinanet_r18_fpn_1x_coco.py'
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    image = torch.randn(1, 3, 64, 64)
    kind = cfg.model.pop('type')
    converted = dict(type='mmact.Converted', original=kind, act_cfg=dict(type='PWLU'))
    before, after = (
        MODELS.build(dict(**what, **cfg.model)).eval() for what in (dict(type=kind), converted)
    )
    elements = 0

    def add(module, inputs, output):
        nonlocal elements
        elements += output.numel()

    handles = [m.register_forward_hook(add) for m in after.modules() if isinstance(m, PWLU)]
    after(image)
    for handle in handles:
        handle.remove()
    counts = [
        get_model_complexity_info(model, inputs=image, show_table=False, show_arch=False)
        for model in (before, after)
    ]
    assert elements > 0
    assert counts[1]['flops'] - counts[0]['flops'] == elements
