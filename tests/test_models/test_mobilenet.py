# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MobileNets: positions of activations, dynamic ones, widths, freezing, training, errors."""

import re

import pytest
import torch
from processes import run_code
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmact.activations import PWLU, DyReLUA, DyReLUB, DyReLUC
from mmact.models.backbones import MobileNetV2, MobileNetV3
from mmact.models.backbones._inverted_residual import SELayer
from mmact.registry import MODELS

DYNAMIC = (DyReLUA, DyReLUB, DyReLUC)
NETS = {
    'v2': lambda **options: MobileNetV2(0.35, **options),
    'v3': lambda **options: MobileNetV3('small', 0.35, **options),
}
every_net = pytest.mark.parametrize('make', NETS.values(), ids=NETS)
# The last part of a module's path, by position, in V2 and V3.
PLACES = {'expand_conv': 'A1', 'depthwise_conv': 'A2', 'linear_conv': 'A3'}


def positions(net: nn.Module, kind) -> set[str]:
    """Positions at which there are activations of a kind; at one of them, at all of the kind."""
    found = {}
    first, last = net.stages[0], net.stages[-1]
    for path, module in net.named_modules():
        if not hasattr(module, 'with_activation') or '.se.' in path:
            continue
        if path in (first, last):
            place = 'stem' if path == first else 'last'
        elif path.split('.')[-2] == 'conv':  # V2: two or three convolutions, the last is A3
            block = net.get_submodule(path.rpartition('.')[0])
            place = f'A{int(path[-1]) + 4 - len(block)}'
        else:
            place = PLACES[path.split('.')[-1]]
        found.setdefault(place, set()).add(isinstance(getattr(module, 'activate', None), kind))
    assert set(found) == {'stem', 'A1', 'A2', 'A3', 'last'}
    assert all(len(kinds) == 1 for kinds in found.values())
    return {place for place, kinds in found.items() if kinds == {True}}


@every_net
@pytest.mark.parametrize('kind', ['DyReLUA', 'DyReLUB', 'DyReLUC', DyReLUB])
def test_dynamic_activations_stand_after_each_convolution(make, kind):
    net = make(act_cfg=dict(type=kind))
    assert positions(net, DYNAMIC) == {'stem', 'A1', 'A2', 'A3', 'last'}
    assert not any(isinstance(m, (nn.ReLU, nn.ReLU6, nn.Hardswish)) for m in net.modules())


@every_net
def test_static_activations_stand_where_the_original_has_some(make):
    assert positions(make(act_cfg=dict(type='PWLU')), PWLU) == {'stem', 'A1', 'A2', 'last'}
    assert positions(make(), nn.Module) == {'stem', 'A1', 'A2', 'last'}


@every_net
@pytest.mark.parametrize(
    'chosen', [('A1',), ('A2',), ('A3',), ('A1', 'A3'), ('A2', 'A3', 'stem'), ('last',), ()]
)
def test_positions_can_be_chosen(make, chosen):
    """Elsewhere stands what the original has, as in Table 8: nothing at A3."""
    net = make(act_cfg=dict(type='DyReLUB'), act_positions=chosen)
    assert positions(net, DYNAMIC) == set(chosen)
    static = positions(net, (nn.ReLU, nn.ReLU6, nn.Hardswish))
    assert static == {'stem', 'A1', 'A2', 'last'} - set(chosen)
    assert net.train()(torch.randn(2, 3, 64, 64))[0].shape == (2, net.out_channels, 2, 2)


def test_v3_keeps_its_mix_of_activations():
    for arch, relus in (('small', 3), ('large', 6)):
        net = MobileNetV3(arch, act_cfg=dict(type='DyReLUB'), act_positions=('A3',))
        blocks = [getattr(net, name) for name in net.stages[1:-1]]
        kinds = [type(block.depthwise_conv.activate) for block in blocks]
        assert kinds == [nn.ReLU] * relus + [nn.Hardswish] * (len(blocks) - relus)
        assert isinstance(net.layer0.activate, nn.Hardswish)
        assert isinstance(getattr(net, net.stages[-1]).activate, nn.Hardswish)


@every_net
def test_dynamic_network_starts_as_its_relu_twin(make):
    """After init_weights, which must leave the hyper functions' zeros alone."""
    everywhere = ('stem', 'A1', 'A2', 'A3', 'last')
    options = dict(act_positions=everywhere, **(dict(se=False) if make is NETS['v3'] else {}))
    twin = make(act_cfg=dict(type='ReLU'), **options)
    net = make(act_cfg=dict(type='DyReLUB'))
    net.init_weights()
    result = twin.load_state_dict(net.state_dict(), strict=False)
    assert not result.missing_keys
    assert all('.activate.' in key for key in result.unexpected_keys)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net.eval()(x), twin.eval()(x), rtol=1e-6, atol=1e-6)


def test_width_of_hyper_functions_and_what_they_see():
    act = dict(type='DyReLUB', reduction=4)
    own = MobileNetV2(0.5, act_cfg=act).layer3[1].conv
    assert [m.activate.seen_channels for m in own] == [96, 96, 16]
    assert [m.activate.hidden_channels for m in own] == [24, 24, 4]
    conv = MobileNetV2(0.5, act_cfg=act, hyper_input='conv')
    assert [m.activate.seen_channels for m in conv.layer3[1].conv] == [16, 96, 96]
    assert conv.conv1.activate.seen_channels == 3
    assert conv.conv2.activate.seen_channels == 160
    mixed = MobileNetV2(0.5, act_cfg=act, hyper_input=dict(A3='conv')).layer3[1].conv
    assert [m.activate.seen_channels for m in mixed] == [96, 96, 96]


@every_net
def test_hyper_function_sees_the_input_of_the_convolution(make):
    net = make(act_cfg=dict(type='DyReLUC'), hyper_input=dict(A1='conv', A3='conv'))
    contexts, inputs, seen = {}, {}, 0

    def record(path, calls):
        return lambda module, args: calls.update({path.rpartition('.')[0]: args})

    for path, module in net.named_modules():
        if isinstance(module, DYNAMIC):
            module.register_forward_pre_hook(record(path, contexts))
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(record(path, inputs))
    out = net(torch.randn(2, 3, 64, 64))[0]
    for path, args in contexts.items():
        if len(args) == 2:
            seen += 1
            assert args[1] is inputs[path][0]
    block_convs = sum('.' in path for path in contexts)
    blocks = 17 if make is NETS['v2'] else 11
    assert 0 < seen == block_convs - blocks  # all but A2
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_squeeze_and_excitation():
    def count(**options):
        net = MobileNetV3(**options)
        return sum(isinstance(module, SELayer) for module in net.modules())

    dynamic = dict(act_cfg=dict(type='DyReLUB'))
    assert count(arch='small') == count(arch='small', se=True) == 9
    assert count(arch='small_early') == 10
    assert count(arch='small_early', se='blocks') == 9
    assert count(arch='large') == 8
    assert count(arch='large', act_cfg=dict(type='PWLU')) == 8
    assert count(arch='large', se=False) == count(arch='large', **dynamic) == 0
    assert count(arch='large', se=True, **dynamic) == 8
    assert count(arch='small_early', se=True, **dynamic) == 10
    gate = SELayer(16)
    nn.init.zeros_(gate.conv2.conv.weight)
    nn.init.zeros_(gate.conv2.conv.bias)
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(gate(x), x / 2)


@pytest.mark.parametrize('width', [0.35, 0.5, 0.75, 1.0])
def test_shapes(width):
    x = torch.randn(1, 3, 64, 96)
    nets = {7: MobileNetV2(width, out_indices=range(8))}
    nets |= {12: MobileNetV3('small', width, out_indices=range(13))}
    nets |= {16: MobileNetV3('large', width, out_indices=range(17), act_cfg=dict(type='DyReLUA'))}
    early = MobileNetV3('small_early', width, out_indices=range(13))
    strides = {
        7: [2, 4, 8, 16, 16, 32, 32, 32],
        12: [2, 4, 8, 8] + [16] * 5 + [32] * 4,
        16: [2, 2, 4, 4, 8, 8, 8] + [16] * 6 + [32] * 4,
    }
    for last, net in nets.items():
        outs = net.eval()(x)
        assert [(64 // o.size(2), 96 // o.size(3)) for o in outs] == [(s, s) for s in strides[last]]
        assert outs[-1].size(1) == net.out_channels
        assert all(o.size(1) % 8 == 0 for o in outs)
    assert [64 // o.size(2) for o in early(x)] == [2, 4, 8, 8, 8] + [16] * 4 + [32] * 4
    if width == 1.0:
        assert [net.out_channels for net in nets.values()] == [1280, 576, 960]


@every_net
@pytest.mark.parametrize(
    ('kind', 'with_cp'),
    [('DyReLUA', False), ('DyReLUB', False), ('DyReLUC', False), ('DyReLUC', True), ('PWLU', True)],
)
def test_training_step_reaches_everything(make, kind, with_cp):
    torch.manual_seed(0)
    # With as many hidden units as channels, some of them are above 0.
    act_cfg = dict(type=kind, reduction=1) if kind.startswith('DyReLU') else dict(type=kind)
    net = make(act_cfg=act_cfg, with_cp=with_cp)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    for _ in range(2):  # at first the hyper functions' second layers are zero
        optimizer.zero_grad()
        net(x)[0].square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
    if kind != 'PWLU':
        acts = [m for m in net.modules() if isinstance(m, DYNAMIC)]
        assert len(acts) == (52 if make is NETS['v2'] else 34)
        assert all(p.grad.any() for act in acts for p in act.parameters())


@every_net
def test_checkpoints_resume(make):
    torch.manual_seed(0)
    net = make(act_cfg=dict(type='DyReLUC'))
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    other = make(act_cfg=dict(type='DyReLUC'))
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(net.eval()(x)[0], other.eval()(x)[0])


@every_net
def test_frozen_stages(make):
    net = make(act_cfg=dict(type='PWLU'), frozen_stages=2, norm_eval=True).train()
    frozen = [getattr(net, name) for name in net.stages[:3]]
    learned = [getattr(net, name) for name in net.stages[3:]]
    assert len(learned) == len(net.stages) - 3
    for stage in frozen:
        assert not any(p.requires_grad for p in stage.parameters())
        assert not any(m.training for m in stage.modules())
    for stage in learned:
        assert all(p.requires_grad for p in stage.parameters())
        for module in stage.modules():
            assert module.training != isinstance(module, nn.BatchNorm2d)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if 'bn' in k)
    net = make(frozen_stages=-1).train()
    assert all(p.requires_grad for p in net.parameters())
    assert all(m.training for m in net.modules())
    net(torch.randn(2, 3, 64, 64))
    assert all(m.running_mean.any() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@every_net
def test_other_normalisation(make):
    net = make(norm_cfg=dict(type='GN', num_groups=4), act_cfg=dict(type='DyReLUB'))
    net.init_weights()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert net(torch.randn(1, 3, 32, 32))[0].isfinite().all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(widen_factor=0), 'widen_factor must be a positive number .* got 0'),
        (dict(widen_factor='1.0'), "widen_factor must be .* got '1.0'"),
        (
            dict(out_indices=(8, 17)),
            r'out_indices must be .* from 0 to \d+, got \(8, 17\)',
        ),
        (dict(out_indices=7), 'out_indices must be integers from 0 to .*, got 7'),
        (dict(out_indices=(-1,)), 'out_indices must be'),
        (dict(frozen_stages=17), 'frozen_stages must be an integer from -1 .* got 17'),
        (dict(act_cfg='ReLU'), "act_cfg must be a dict with a type, .* got 'ReLU'"),
        (dict(act_cfg=dict(type='ReLU'), act_positions='A1'), "act_positions must be .* got 'A1'"),
        (
            dict(act_cfg=dict(type='DyReLUB'), act_positions=('A1', 'A4')),
            r"act_positions must be a sequence of some of \('stem', 'A1', .*\('A1', 'A4'\)",
        ),
        (dict(act_positions=('A1',)), 'act_positions=.* says where act_cfg stands, and there is'),
        (
            dict(act_cfg=dict(type='DyReLUB'), hyper_input='other'),
            "hyper_input must be 'own', 'conv' or a dict .* got 'other'",
        ),
        (
            dict(act_cfg=dict(type='DyReLUB'), hyper_input=dict(A4='conv')),
            'hyper_input must be .* with keys of',
        ),
        (
            dict(act_cfg=dict(type='PWLU'), hyper_input='conv'),
            "hyper_input='conv' needs an act_cfg of type 'DyReLUA'.* got {'type': 'PWLU'}",
        ),
    ],
)
@pytest.mark.parametrize('cls', [MobileNetV2, MobileNetV3])
def test_errors(cls, options, message):
    with pytest.raises(ValueError, match=f'^{cls.__name__}: {message}'):
        cls(**options)


def test_errors_of_v3_and_of_types():
    with pytest.raises(ValueError, match="arch must be one of .* got 'big'"):
        MobileNetV3('big')
    with pytest.raises(ValueError, match="se must be True, False, 'blocks' or None, got 'no'"):
        MobileNetV3(se='no')
    with pytest.raises(KeyError, match='DyReLUD'):
        MobileNetV2(act_cfg=dict(type='DyReLUD'))


def test_builds_from_config_in_any_scope_and_without_codebases(tmp_path):
    for scope in ('mmdet', 'mmpose', 'mmseg'):
        pytest.importorskip(scope)
        cfg = dict(type='mmact.MobileNetV2', widen_factor=0.35, act_cfg=dict(type='DyReLUB'))
        assert isinstance(MODELS.build(dict(cfg, _scope_=scope)), MobileNetV2)
    code = (
        'import sys\n'
        'for name in ("mmdet", "mmseg", "mmpose", "mmpretrain"): sys.modules[name] = None\n'
        'import mmact\n'
        'from mmengine.registry import MODELS\n'
        'for name in ("MobileNetV2", "MobileNetV3"):\n'
        '    net = MODELS.build(dict(type=f"mmact.{name}", act_cfg=dict(type="DyReLUB")))\n'
        'MODELS.build(dict(type="mmact.InvertedResidualHeatmapHead"))'
    )
    status, output = run_code(tmp_path, code)
    assert status == 1
    assert re.match(
        "ImportError: mmact.InvertedResidualHeatmapHead extends MMPose's HeatmapHead, and mmpose "
        'is not installed: ',
        output.strip().splitlines()[-1],
    )
