# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones of every codebase with every activation: one compiled graph for all sizes, exports."""

import inspect
import io
from itertools import product

import pytest
import torch
from marks import slow_unless
from torch._dynamo.testing import CompileCounter

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpose')
pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope

from mmact import list_activations
from mmact.activations import Activation, Maxout

# All but Maxout, whose result has fewer channels.
ACTIVATIONS = [
    r.name for r in list_activations() if issubclass(r.cls, Activation) and r.cls is not Maxout
]
# The scope, and the backbone without its activation: mmact's own, and a converted one.
BACKBONES = {
    'mmdet': dict(type='mmact.ResNet', depth=18, base_channels=8, norm_eval=False),
    'mmseg': dict(type='mmact.ResNetV1c', depth=18, base_channels=8, stem_channels=16),
    'mmpose': dict(type='mmact.MobileNetV3', arch='small'),
    'mmpretrain': dict(
        type='mmact.Converted',
        original='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 32, 64]),
        example=(2, 3, 64, 64),
    ),
}
# Squares and higher powers of what residual sums have become leave every range with random weights,
# but for ConvNeXt's, whose branches are scaled by 1e-6. FReLU takes no channel-last tokens.
POWERS = ('SLAF', 'StarReLU', 'XIELU')
COMBINATIONS = [
    (codebase, act)
    for codebase, act in product(BACKBONES, ACTIVATIONS)
    if act not in (['FReLU'] if codebase == 'mmpretrain' else POWERS)
]
QUICK = [('mmdet', 'PWLU'), ('mmpose', 'DyReLUB')]
pytestmark = [
    pytest.mark.filterwarnings('ignore'),
    pytest.mark.parametrize(('codebase', 'act'), slow_unless(QUICK.__contains__, COMBINATIONS)),
]
# Sizes that are equal in the first would be taken for one, and 1 for a constant.
SIZES = [(2, 3, 64, 96), (4, 3, 96, 64), (6, 3, 64, 160)]


class Last(torch.nn.Module):
    """The last of a backbone's maps."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)[-1]


def build(codebase, act):
    init_default_scope(codebase)
    torch.manual_seed(0)
    model = Last(MODELS.build(dict(BACKBONES[codebase], act_cfg=dict(type=act))))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of what it has seen
    with torch.no_grad():
        model(torch.randn(SIZES[0]))  # else squares of squares leave the range of float32
    return model.eval()


def assert_near(actual, expected):
    """On average: where rounding moves an x across a kink, all that hangs on it moves too.

    So gradients are compared in float64, where that does not happen.
    """
    assert actual.shape == expected.shape
    tolerance = 1e-6 if actual.dtype == torch.float64 else 1e-3
    assert (actual - expected).abs().mean() <= tolerance * expected.abs().mean()


def test_one_graph_for_all_sizes(codebase, act):
    model = build(codebase, act).double()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for size in SIZES:
        x = torch.randn(size, dtype=torch.float64, requires_grad=True)
        y, expected = compiled(x), model(x)
        assert_near(y, expected)
        (g,), (wanted,) = (torch.autograd.grad(t.square().sum(), x) for t in (y, expected))
        assert_near(g, wanted)
    # One more with AOTAutograd, which adds conditions of its own; so with ReLU.
    assert counter.frame_count == 1


@torch.no_grad()
def test_torch_export(codebase, act):
    model = build(codebase, act)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (torch.randn(SIZES[0]),), dynamic_shapes=(free,))
    for size in SIZES[1:]:
        x = torch.randn(size)
        assert_near(program.module()(x), model(x))


@torch.no_grad()
def test_onnx(codebase, act):
    onnxruntime = pytest.importorskip('onnxruntime')
    model, file = build(codebase, act), io.BytesIO()
    takes = inspect.signature(torch.onnx.export).parameters
    torch.onnx.export(
        model,
        (torch.randn(SIZES[0]),),
        file,
        input_names=['x'],
        dynamic_axes={'x': {0: 'batch', 2: 'height', 3: 'width'}},
        **({'dynamo': False} if 'dynamo' in takes else {}),
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for size in SIZES[1:]:
        x = torch.randn(size)
        (y,) = session.run(None, {'x': x.numpy()})
        assert_near(torch.from_numpy(y), model(x))
