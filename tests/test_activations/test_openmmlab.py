# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""act_cfg=dict(type='PWLU') in the modules of OpenMMLab: channel counts, compile, gradients."""

import copy
import itertools

import pytest
import torch
import torch._inductor.config
from test_ops.utils import assert_near

mmcv = pytest.importorskip('mmcv', reason='OpenMMLab is not installed')

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, build_activation_layer  # noqa: E402
from mmcv.cnn.bricks.transformer import FFN  # noqa: E402

import mmact  # noqa: E402, F401
from mmact.activations import PWLU, FReLU, unresolved  # noqa: E402

from .utils import randomise  # noqa: E402

ACT = dict(type='PWLU')


def activations(model):
    """(num_channels, channel_dim) of every PWLU of a model."""
    assert unresolved(model) == []
    return [(m.num_channels, m.channel_dim) for m in model.modules() if isinstance(m, PWLU)]


def runs(model, *inputs):
    """A forward and a backward in which every PWLU takes part."""
    y = model(*inputs)
    y.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    return y


# mmcv ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('order', [*itertools.permutations(('conv', 'norm', 'act'))], ids='-'.join)
@pytest.mark.parametrize('norm', [dict(type='BN'), dict(type='GN', num_groups=2), None])
def test_conv_module_in_every_order(order, norm):
    """The side of the convolution on which the activation stands decides."""
    model = ConvModule(4, 10, 3, padding=1, norm_cfg=norm, act_cfg=ACT, order=order)
    before = order.index('act') < order.index('conv')
    assert activations(model) == [(4 if before else 10, 1)]
    assert runs(model, torch.randn(2, 4, 5, 5)).shape == (2, 10, 5, 5)


@pytest.mark.parametrize(
    ('conv', 'shape'),
    [
        ('Conv1d', (2, 4, 9)),
        ('Conv3d', (2, 4, 3, 5, 5)),
        ('ConvWS', (2, 4, 5, 5)),
        ('deconv', (2, 4, 5, 5)),
    ],
)
def test_conv_module_of_other_convolutions(conv, shape):
    model = ConvModule(4, 6, 3, conv_cfg=dict(type=conv), act_cfg=ACT)
    assert activations(model) == [(6, 1)]
    runs(model, torch.randn(shape))


def test_conv_module_passes_on_arguments():
    cfg = dict(type='PWLU', num_intervals=8, bounds=(-2, 2))
    act = ConvModule(3, 4, 1, act_cfg=cfg).activate
    assert (act.num_intervals, act.left_bound[0].item(), act.num_channels) == (8, -2.0, 4)
    assert cfg == dict(type='PWLU', num_intervals=8, bounds=(-2, 2))
    act = ConvModule(3, 4, 1, act_cfg=dict(type='PWLU', num_groups=1)).activate
    assert act.rows('points').shape == (1, 17)
    act = ConvModule(3, 4, 1, act_cfg=dict(type='PWLU', num_channels=4, channel_dim=1)).activate
    assert act.num_channels == 4


def test_conv_module_starts_equal_to_relu():
    torch.manual_seed(0)
    relu = ConvModule(3, 8, 3, norm_cfg=dict(type='BN'))
    torch.manual_seed(0)
    pwlu = ConvModule(3, 8, 3, norm_cfg=dict(type='BN'), act_cfg=ACT)
    x = torch.randn(2, 3, 9, 9)
    assert_near(pwlu(x), relu(x), 1e-6)
    assert set(relu.state_dict()) < set(pwlu.state_dict())


def test_conv_module_with_frelu():
    model = ConvModule(3, 8, 3, norm_cfg=dict(type='BN'), act_cfg=dict(type='FReLU'))
    assert isinstance(model.activate, FReLU)
    assert model.activate.conv.weight.shape == (8, 1, 3, 3)
    runs(model, torch.randn(2, 3, 9, 9))


def test_depthwise_separable_conv_module():
    model = DepthwiseSeparableConvModule(4, 6, 3, norm_cfg=dict(type='BN'), act_cfg=ACT)
    assert activations(model) == [(4, 1), (6, 1)]
    runs(model, torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize('num_fcs', [2, 3])
def test_ffn(num_fcs):
    model = FFN(8, 12, num_fcs, act_cfg=dict(type='PWLU', inplace=True))
    assert activations(model) == [(12, -1)] * (num_fcs - 1)
    # As many tokens as channels: a mistaken dimension would not be noticed by its size.
    runs(model, torch.randn(2, 12, 8))


def test_build_activation_layer_alone():
    act = build_activation_layer(ACT)
    assert unresolved(act) == [('', act)]
    with pytest.raises(RuntimeError, match='num_channels'):
        act(torch.zeros(2, 3))


def test_copies_of_resolved_modules():
    """BaseModule lists and EMA copy modules that are complete."""
    model = ConvModule(3, 4, 1, act_cfg=ACT)
    randomise(model.activate)
    other = copy.deepcopy(model)
    x = torch.randn(2, 3, 4, 4)
    assert activations(other) == [(4, 1)]
    assert torch.equal(other(x), model(x))


# Inductor would build and load a trial library for each of ten instruction sets first: a minute.
@torch._inductor.config.patch({'cpp.vec_isa_ok': False, 'compile_threads': 1})
def test_torch_compile_of_a_conv_module():
    """One graph, compiled by the default backend: forward and backward as eager."""
    compare_compiled('inductor', torch.contiguous_format)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
def test_traced_conv_module(memory_format):
    """The graph of torch.compile before code is generated, in evaluation too."""
    compare_compiled('aot_eager', memory_format, evaluate=True)


def compare_compiled(backend, memory_format, evaluate=False):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = ConvModule(3, 5, 3, padding=1, norm_cfg=dict(type='BN'), act_cfg=ACT)
    randomise(model.activate)
    other = copy.deepcopy(model)
    compiled = torch.compile(other.forward, fullgraph=True, backend=backend)
    x = torch.randn(2, 3, 9, 7).contiguous(memory_format=memory_format)
    results = []
    for module, run in ((model, model), (other, compiled)):
        value = x.clone().requires_grad_()
        y = run(value)
        y.square().sum().backward()
        results.append([y, value.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        assert_near(b, a, 2e-5)
    assert_near(other.bn.running_mean, model.bn.running_mean, 1e-6)
    if evaluate:
        model.eval(), other.eval()
        assert_near(compiled(x), model(x), 1e-5)


# MMSegmentation, MMPretrain, MMDetection ----------------------------------------------------------


def test_unet_deconv_module():
    unet = pytest.importorskip('mmseg.models.backbones.unet')
    model = unet.DeconvModule(6, 4, act_cfg=ACT)
    assert activations(model) == [(4, 1)]
    runs(model, torch.randn(2, 6, 5, 5))


def test_unet_interp_conv():
    unet = pytest.importorskip('mmseg.models.backbones.unet')
    for conv_first in (True, False):
        model = unet.InterpConv(6, 4, conv_first=conv_first, act_cfg=ACT)
        assert activations(model) == [(4, 1)]
        runs(model, torch.randn(2, 6, 5, 5))


@pytest.mark.parametrize('linear_pw_conv', [True, False])
@pytest.mark.parametrize('use_grn', [True, False])
def test_convnext_block(linear_pw_conv, use_grn):
    """Pointwise convolutions are linear layers on (N, H, W, C), or convolutions on (N, C, H, W)."""
    convnext = pytest.importorskip('mmpretrain.models.backbones.convnext')
    model = convnext.ConvNeXtBlock(3, act_cfg=ACT, linear_pw_conv=linear_pw_conv, use_grn=use_grn)
    assert activations(model) == [(12, -1 if linear_pw_conv else 1)]
    # A map of 12 x 12: every dimension is as long as the channels, so only the right one is right.
    x = torch.randn(2, 3, 12, 12)
    randomise(model.act)
    model.gamma.data.fill_(1)
    runs(model, x)
    seen = []
    model.act.register_forward_hook(lambda m, args, y: seen.append((args[0], y)))
    model(x)
    ((inner, y),) = seen
    dim = -1 if linear_pw_conv else 1
    assert inner.size(dim) == 12
    values = [p.detach() for p in model.act._parameters_in_order()]
    assert_near(y, mmact.ops.reference.pwlu(inner, *values, channel_dim=dim), 1e-5)


def test_swin_block():
    swin = pytest.importorskip('mmpretrain.models.backbones.swin_transformer')
    model = swin.SwinBlock(8, 2, window_size=4, ffn_ratio=2.0, ffn_cfgs=dict(act_cfg=ACT))
    assert activations(model) == [(16, -1)]
    runs(model, torch.randn(2, 16, 8), (4, 4))


@pytest.mark.parametrize('expand_ratio', [1, 4])
def test_inverted_residual(expand_ratio):
    mobilenet = pytest.importorskip('mmpretrain.models.backbones.mobilenet_v2')
    model = mobilenet.InvertedResidual(4, 6, 1, expand_ratio, act_cfg=ACT)
    hidden = 4 * expand_ratio
    assert activations(model) == [(hidden, 1)] * (1 if expand_ratio == 1 else 2)
    runs(model, torch.randn(2, 4, 5, 5))


def test_inverted_residual_with_squeeze_and_excitation():
    models = pytest.importorskip('mmpretrain.models.utils')
    se = dict(channels=16, ratio=4, act_cfg=(ACT, dict(type='HSigmoid')))
    model = models.InvertedResidual(4, 6, 16, se_cfg=se, norm_cfg=dict(type='BN'), act_cfg=ACT)
    # expansion, depthwise, and the squeezed middle of SELayer (16 / 4, rounded up to 8)
    assert sorted(activations(model)) == [(8, 1), (16, 1), (16, 1)]
    runs(model, torch.randn(2, 4, 5, 5))


def test_fpn_of_mmdetection():
    necks = pytest.importorskip('mmdet.models.necks')
    model = necks.FPN([4, 8], 6, num_outs=3, act_cfg=ACT, norm_cfg=dict(type='BN'))
    assert set(activations(model)) == {(6, 1)}
    outputs = model((torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)))
    sum(y.sum() for y in outputs).backward()


def test_the_path_of_an_activation_without_an_answer():
    model = torch.nn.Sequential()
    model.add_module('neck', torch.nn.Sequential(build_activation_layer(ACT)))
    with pytest.raises(RuntimeError) as caught:
        model(torch.zeros(2, 3, 4, 4))
    assert "'neck.0'" in str(caught.value)
    assert 'num_channels' in str(caught.value)
