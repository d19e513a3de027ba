# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Changes of parameters by dimension, class or entry leave every activation its function.

The rule: an activation's own parameters are 1-D with an element or more, none of its children is
an nn.Linear, every buffer is in the state dict, and no Python attribute decides a value.
"""

import copy
import warnings

import pytest
import torch
from test_ops.utils import random_tensor
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import mmact
from mmact.activations import PAU, PWLU, Activation, ChannelActivation, DiTAC, DyReLUC, to_pwlu

CHANNELS = 8
OWN = {r.name: r for r in mmact.list_activations() if issubclass(r.cls, Activation)}
own = pytest.mark.parametrize('name', OWN)
# Those with a function for each group of channels.
GROUPED = [n for n, r in OWN.items() if issubclass(r.cls, ChannelActivation) and r.cls.elementwise]


def build(name, **kwargs):
    torch.manual_seed(0)
    cls = OWN[name].cls
    if issubclass(cls, ChannelActivation):
        kwargs.setdefault('num_channels', CHANNELS)
    return cls(**kwargs)


def moved(name):
    """A layer whose parameters are not the initial ones."""
    act = build(name)
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return act.eval()


def inputs():
    return 2 * random_tensor((2, CHANNELS, 5, 6), torch.float32)


@own
def test_the_rule(name):
    act = build(name)
    for parameter_name, p in act.named_parameters(recurse=False):
        assert p.dim() == 1, parameter_name
        assert p.numel() >= 1, parameter_name
    assert not any(isinstance(m, nn.Linear) for m in act.modules())
    assert {n for n, _ in act.named_buffers()} <= set(act.state_dict())
    # FReLU's convolution is one, and is treated as one.
    assert not list(act.children()) or name == 'FReLU'


@pytest.mark.parametrize('name', [n for n in OWN if n != 'FReLU'])
def test_initialisers_by_dimension_and_class(name):
    """init_weights of DETR and Mask2Former, of Swin, MiT and ConvNeXt; quantize_dynamic.

    Not of FReLU, whose convolution is one: who initialises convolutions means it, too.
    """
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), moved(name)).eval()
    x = inputs()
    expected = model[1](x)
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.xavier_uniform_(p)
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
    assert torch.equal(model[1](x), expected)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    assert len(decayed) == 1, 'the convolution alone has weight decay'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # PyTorch's, that the function will move
        quantised = torch.ao.quantization.quantize_dynamic(model[1], {nn.Linear})
    assert torch.equal(quantised(x), expected)


@own
def test_copies_by_entry(name):
    """EMA of torch, of timm and of YOLO: entries of the state dict are written in place."""
    act = moved(name)
    x = inputs()
    expected = act(x)
    average = AveragedModel(build(name).eval(), avg_fn=lambda averaged, new, _: new)
    average.update_parameters(act)
    average.update_parameters(act)
    assert torch.equal(average.module.eval()(x), expected)
    other = build(name).eval()
    for mine, theirs in zip(other.state_dict().values(), act.state_dict().values(), strict=True):
        mine.copy_(theirs)
    assert torch.equal(other(x), expected)
    again = build(name).eval()
    again.load_state_dict(other.state_dict())
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize('entries', ['in place', 'loaded'])
def test_phase_decides_no_value(entries):
    """A copy that began before phase I, and one that began in it."""
    act = PWLU(CHANNELS)
    act.start_collecting()
    before = copy.deepcopy(act)
    act(inputs())
    act.realign()
    with torch.no_grad():
        act.points.add_(0.1)
    if entries == 'in place':
        for mine, theirs in zip(
            before.state_dict().values(), act.state_dict().values(), strict=True
        ):
            mine.copy_(theirs)
    else:
        before.load_state_dict(act.state_dict())
    x = inputs()
    for training in (True, False):
        torch.testing.assert_close(before.train(training)(x), act.train(training)(x))


@own
def test_meta_device(name):
    """Made on the meta device, emptied, then loaded; and loaded by assignment."""
    act = moved(name)
    x, state = inputs(), act.state_dict()
    with torch.device('meta'):
        empty, assigned = build(name), build(name)
    empty = empty.to_empty(device='cpu').eval()
    for t in [*empty.parameters(), *empty.buffers()]:
        t.data.fill_(7)  # whatever the memory holds
    empty.load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    for loaded in (empty, assigned.eval()):
        assert torch.equal(loaded(x), act(x))


OLD = {
    'APL': lambda a: {'slopes': a.rows('slopes'), 'hinges': a.rows('hinges')},
    'AReLU': lambda a: {'alpha': a.alpha.reshape(()), 'beta': a.beta.reshape(())},
    'ELSA': lambda a: {'alpha': a.alpha.reshape(()), 'beta': a.beta.reshape(())},
    'Mixture': lambda a: {'weight': a.weight.reshape(())},
    'PAU': lambda a: {n: a.rows(n) for n in ('numerator', 'denominator')},
    'RPAU': lambda a: {n: a.rows(n) for n in ('numerator', 'denominator')},
    'PWLU': lambda a: {**a.state_dict(), 'points': a.rows('points')},
    **{
        name: lambda a: {
            'fc1.weight': a.fc1_weight.view(a.hidden_channels, -1),
            'fc1.bias': a.fc1_bias,
            'fc2.weight': a.fc2_weight.view(-1, a.hidden_channels),
            'fc2.bias': a.fc2_bias,
            **(
                {'attention.weight': a.attention_weight[None]}
                if isinstance(a, DyReLUC)
                else {}
            ),
        }
        for name in ('DyReLUA', 'DyReLUB', 'DyReLUC')
    },
}  # fmt: skip


@pytest.mark.parametrize('name', OLD)
def test_state_dicts_of_version_0_1(name):
    act = moved(name)
    old = {f'0.{key}': value.detach().clone() for key, value in OLD[name](act).items()}
    keys = set(old)
    model = nn.Sequential(build(name)).eval()
    model.load_state_dict(old)
    assert torch.equal(model[0](inputs()), act(inputs()))
    assert set(old) == keys, "the caller's dict is left alone"


def test_state_dict_of_a_channel_wise_ditac():
    act = DiTAC(CHANNELS, init='prior', num_groups=None)
    other = DiTAC(CHANNELS, num_groups=None)
    other.load_state_dict({'theta': act.rows('theta').detach()})
    assert torch.equal(other(inputs()), act(inputs()))


@pytest.mark.parametrize('name', [n for n in OWN if n != 'Maxout'])
def test_results_may_be_changed_in_place(name):
    """As after SiLU; in phase I and fixed too. Not of Maxout, a maximum like PyTorch's amax."""
    act = build(name)
    layers = [act]
    if name == 'PWLU':
        layers = [build(name), build(name), build(name)]
        layers[1].start_collecting()
        layers[2].freeze()
    for layer in layers:
        y = layer(inputs().requires_grad_())
        y += 1
        y.sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


class FromTheHost(TorchDispatchMode):
    """Fails where a tensor is made of Python numbers, or a number is read from a tensor.

    On a GPU both wait for it, and neither can be captured in a CUDA graph.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert 'lift_fresh' not in name, 'a tensor of Python numbers'
        assert '_local_scalar_dense' not in name, 'a number read from a tensor'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('training', [True, False])
@own
def test_nothing_passes_between_host_and_device(name, training):
    layers = [build(name)]
    if name == 'PWLU':
        layers += [build(name), build(name)]
        layers[1].start_collecting()
        layers[2].freeze()
    for layer in layers:
        x = inputs().requires_grad_()
        with FromTheHost():
            y = layer.train(training)(x)
            y.backward(torch.ones_like(y))


def test_the_rule_about_the_host_finds_what_breaks_it():
    with pytest.raises(AssertionError, match='Python numbers'), FromTheHost():
        inputs().new_tensor([1.0, 2.0])
    with pytest.raises(AssertionError, match='read from a tensor'), FromTheHost():
        torch.ones(1).item()


def test_built_in_inference_mode():
    with torch.inference_mode():
        act = PWLU(CHANNELS, init='gelu')
    assert torch.equal(act.right_slope.clone(), PWLU(CHANNELS, init='gelu').right_slope.detach())


def test_a_loaded_phase_one_says_so_once():
    act = PWLU(CHANNELS)
    act.start_collecting()
    model = nn.Sequential(PWLU(CHANNELS))
    model.load_state_dict({f'0.{k}': v for k, v in act.state_dict().items()})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.eval()(inputs())
    with pytest.warns(UserWarning, match='PWLURealignHook'):
        model.train()(inputs())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(inputs())


# Groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', [n for n in GROUPED if n != 'GroupRational'])
@pytest.mark.parametrize('num_channels', [CHANNELS, None])
def test_groups(name, num_channels):
    """Neighbouring channels share a function, in layer, figure and PWLU made of it."""
    act = build(name, num_channels=num_channels, num_groups=2)
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.05 * torch.randn_like(p))
    act.eval()
    assert act.num_functions == 2
    x = inputs()
    y = act(x)
    for group in range(2):
        single = build(name, num_channels=None, num_groups=1).eval()
        single.load_state_dict(
            {n: v.view(2, -1)[group] if v.dim() == 1 else v for n, v in act.state_dict().items()}
        )
        channels = slice(4 * group, 4 * group + 4)
        torch.testing.assert_close(y[:, channels], single(x[:, channels]))
    layer, error = to_pwlu(act, max_error=1e-2)
    assert layer(x).shape == x.shape
    assert (layer(x) - y)[x.abs() < 8].abs().max() < error + 1e-5
    visualization = pytest.importorskip('mmact.visualization')
    pytest.importorskip('matplotlib')
    with visualization.InputRecorder(nn.Sequential(act)) as recorder:
        act(x)
    assert recorder is not None
    visualization.plot_functions(nn.Sequential(act))


def test_groups_that_do_not_fit():
    for call in (
        lambda: PAU(10, num_groups=4),
        lambda: PAU(num_groups=4)(torch.randn(1, 10, 2, 2)),
        lambda: PWLU(num_groups=3)(torch.randn(1, 8)),
    ):
        with pytest.raises(ValueError, match=r'num_groups=4|a multiple of [34] channels'):
            call()
    with pytest.raises(TypeError, match="mode='layer' is num_groups=1"):
        PWLU(mode='layer')
