# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Rules for every activation that a config can name, and the list of them."""

import copy
import dataclasses
import runpy
import sys

import pytest
import torch
from test_ops.utils import HALF_LAYERS, LAYOUTS, ROOT, TORCH, assert_near, random_tensor
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mmact
from mmact.activations import Activation, ChannelActivation, Maxout

RECORDS = {record.name: record for record in mmact.list_activations()}
OWN = [name for name, record in RECORDS.items() if issubclass(record.cls, Activation)]
CHANNELS = 8
# Their coefficients come from two linear layers; Dynamic ReLU's second starts at 0.
HYPER = ('DyReLUA', 'DyReLUB', 'DyReLUC', 'MetaAconC')

every = pytest.mark.parametrize('name', RECORDS)
own = pytest.mark.parametrize('name', OWN)
learning = pytest.mark.parametrize('name', [n for n, r in RECORDS.items() if r.num_parameters])


def build(name, randomise=False):
    """A layer of CHANNELS channels; with randomise its parameters are moved a little."""
    torch.manual_seed(0)
    act = RECORDS[name].cls()
    if isinstance(act, ChannelActivation) and not act.resolved:
        act = RECORDS[name].cls(num_channels=CHANNELS)
    if randomise:
        with torch.no_grad():
            for p in act.parameters():
                p.add_(0.02 * torch.randn_like(p))
    return act


def inputs(dtype=torch.float32, shape=(4, CHANNELS, 7, 6), seed=0):
    # Wide enough for all pieces of the piecewise functions.
    return 2 * random_tensor(shape, dtype, seed=seed)


# The list -----------------------------------------------------------------------------------------


def test_records():
    names = {'APL', 'AReLU', 'Comb', 'ELSA', 'FReLU', 'Maxout', 'Mixture', 'PAU', 'PDELU', 'PWLU'}
    assert names | {'RPAU', 'SLAF', 'SReLU', 'Mish', 'SELU', 'Softplus', 'Swish'} <= set(RECORDS)
    assert len(RECORDS) == len(mmact.list_activations()), 'every name once'
    for record in RECORDS.values():
        assert record.paper or record.name in ('Sigmoid', 'Tanh'), record.name
        assert 0 < len(record.description) <= 100, record.name
        assert '\n' not in record.description + record.paper
        assert bool(record.num_parameters) == bool(record.per)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORDS['PWLU'].name = 'other'


@pytest.mark.parametrize(
    ('name', 'num_parameters', 'per'),
    [
        ('APL', 6, 'channel'),
        ('AReLU', 2, 'layer'),  # Table 1 of the AReLU paper, as the next four
        ('Comb', 1, 'layer'),
        ('PAU', 10, 'layer'),
        ('PReLU', 1, 'layer'),
        ('ReLU', 0, ''),
        ('FReLU', 11, 'channel'),  # 3 x 3 weights, and the BatchNorm's two
        ('PWLU', 21, 'channel'),  # N + 1 points, two bounds, two slopes
        ('SReLU', 4, 'channel'),
        ('AconC', 3, 'channel'),
        ('MetaAconC', 2 * 64 + 2 * 64 * 16 + 16 + 64, 'layer of 64 channels'),
        ('GroupRational', 6 + 8 * 4, 'layer'),
        ('StarReLU', 2, 'layer'),
        ('XIELU', 2, 'layer'),
        ('Squareplus', 0, ''),
        ('Maxout', 0, ''),
        # Two linear layers: C to C / 8, and to 2 K numbers, 2 K C, and C more for the attention.
        ('DyReLUA', 64 * 8 + 8 + 8 * 4 + 4, 'layer of 64 channels'),
        ('DyReLUB', 64 * 8 + 8 + 8 * 256 + 256, 'layer of 64 channels'),
        ('DyReLUC', 64 * 8 + 8 + 8 * 256 + 256 + 64, 'layer of 64 channels'),
    ],
)
def test_parameter_counts(name, num_parameters, per):
    record = RECORDS[name]
    assert (record.num_parameters, record.per) == (num_parameters, per)


def test_looking_does_not_change_random_numbers():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    mmact.list_activations()
    assert torch.equal(torch.randn(3), expected)


def test_the_page_is_current(tmp_path, monkeypatch, capsys):
    """docs/activations.md is what tools/misc/print_activations.py writes."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools/misc'))
    tool = runpy.run_path(str(ROOT / 'tools/misc/print_activations.py'))

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['print_activations.py', *map(str, arguments)])
        tool['main']()

    run('--check')
    stale = tmp_path / 'activations.md'
    stale.write_text((ROOT / 'docs/activations.md').read_text() + '\n')
    with pytest.raises(SystemExit, match='is not up to date: run'):
        run('--check', '--out', stale)
    with pytest.raises(SystemExit, match='is not up to date: run'):
        run('--check', '--out', tmp_path / 'missing.md')
    run('--out', stale)
    assert capsys.readouterr().out == f'{stale} written\n'
    assert stale.read_text() == (ROOT / 'docs/activations.md').read_text()


# Every activation ---------------------------------------------------------------------------------


@learning
def test_every_parameter_learns(name):
    """Every element of every parameter gets a gradient that is finite and not 0, and moves."""
    act = build(name, randomise=name in HYPER)
    x = inputs(shape=(16, CHANNELS, 9, 9)).requires_grad_()
    y = act(x)
    y.backward(random_tensor(y.shape, torch.float32, seed=1))
    assert x.grad.isfinite().all()
    before = {n: p.detach().clone() for n, p in act.named_parameters()}
    for n, p in act.named_parameters():
        assert p.grad.isfinite().all(), n
        assert (p.grad != 0).all(), n
    torch.optim.SGD(act.parameters(), lr=0.1).step()
    for n, p in act.named_parameters():
        assert (p != before[n]).any(), n
    if name not in HYPER:
        assert sum(p.numel() for p in before.values()) == RECORDS[name].num_parameters * (
            CHANNELS if RECORDS[name].per == 'channel' else 1
        )


@every
def test_state_dict_and_deepcopy(name):
    act = build(name, randomise=True).eval()
    x = inputs()
    expected = act(x.clone())
    assert torch.equal(copy.deepcopy(act)(x.clone()), expected)
    other = build(name).eval()
    other.load_state_dict(act.state_dict())
    assert torch.equal(other(x.clone()), expected)
    # Nothing that the function depends on is held outside of the state.
    assert set(act.state_dict()) >= {n for n, _ in act.named_parameters()}
    assert all(t.dtype == torch.float64 for t in act.double().parameters())


@every
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half(name, dtype):
    if name == 'RReLU' and dtype == torch.float16:
        pytest.skip("PyTorch's RReLU has no float16 on CPUs")
    act = build(name, randomise=True)
    if dtype not in HALF_LAYERS and name in (*HYPER, 'FReLU'):
        pytest.skip('PyTorch has no float16 linear layers and convolutions here')
    expected = copy.deepcopy(act).eval()(inputs(dtype).float())
    act = act.to(dtype)
    y = act.eval()(inputs(dtype))
    assert y.dtype == dtype
    assert_near(y, expected, 64 * torch.finfo(dtype).eps)
    x = inputs(dtype).requires_grad_()
    act.train()(x).float().square().mean().backward()
    assert x.grad.dtype == dtype
    assert all(p.grad.dtype == dtype for p in act.parameters())


@own
def test_half_input_with_float_parameters(name):
    """As under AMP: the result has the input's dtype."""
    act = build(name)
    for dtype in HALF_LAYERS:
        x = inputs(dtype).requires_grad_()
        # Layers of PyTorch inside it take mixed dtypes under autocast only.
        with torch.autocast('cpu', dtype, enabled=any(True for _ in act.children())):
            y = act(x)
        assert y.dtype == dtype
        y.float().sum().backward()
        assert x.grad.dtype == dtype
        assert all(p.grad.dtype == torch.float32 for p in act.parameters())


@every
def test_memory_format_is_kept(name):
    if name == 'RReLU':
        pytest.skip("PyTorch's RReLU does not keep it")
    act = build(name).eval()
    for layout in ('nchw', 'channels_last'):
        x = LAYOUTS[layout].place(inputs())
        y = act(x)
        if layout == 'channels_last':
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            assert y.is_contiguous()


@every
def test_empty_batch(name):
    act = build(name).eval()
    x = inputs(shape=(0, CHANNELS, 3, 3)).requires_grad_()
    y = act(x)
    assert y.shape[0] == 0
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all((p.grad == 0).all() for p in act.parameters())


@learning
def test_ema(name):
    act = build(name)
    model = AveragedModel(act, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    model.update_parameters(act)
    start = [p.detach().clone() for p in act.parameters()]
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.02)
    model.update_parameters(act)
    for averaged, p in zip(model.module.parameters(), start, strict=True):
        assert_near(averaged, p + 0.01, 1e-6)
    assert torch.isfinite(model.eval()(inputs())).all()


@own
def test_repr_names_the_arguments(name):
    text = repr(build(name))
    assert text.startswith(RECORDS[name].cls.__name__ + '(')
    assert 'object at' not in text
    if RECORDS[name].per == 'channel':
        assert f'num_channels={CHANNELS}' in text


@own
def test_the_input_is_not_overwritten(name):
    """inplace=True, which ConvModule passes, has no effect."""
    for inplace in (False, True):
        kwargs = dict(inplace=inplace)
        if isinstance(build(name), ChannelActivation):
            kwargs['num_channels'] = CHANNELS
        act = RECORDS[name].cls(**kwargs)
        x = inputs()
        before = x.clone()
        act(x)
        assert torch.equal(x, before)


@every
def test_conv_module_by_name_alone(name):
    """Built, trained for a step and copied inside ConvModule, from any scope."""
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    cfg = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type=name))
    model = cnn.ConvModule(CHANNELS, CHANNELS, 3, padding=1, **cfg)
    y = model(inputs(shape=(4, CHANNELS, 9, 9)))
    out_channels = CHANNELS // 2 if isinstance(model.activate, Maxout) else CHANNELS
    assert y.shape == (4, out_channels, 9, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2 if name in HYPER else 1):
        optimizer.zero_grad()
        y = model(inputs(shape=(4, CHANNELS, 9, 9)))
        y.backward(random_tensor(y.shape, torch.float32, seed=1))
        optimizer.step()
    for n, p in model.named_parameters():
        assert p.grad.isfinite().all(), n
        assert p.grad.abs().sum() > 0, n
    model.eval()
    x = inputs(seed=3)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@own
def test_compiles_as_one_graph(name):
    if name == 'Maxout' and TORCH < (2, 2):
        pytest.skip('Dynamo does not know list.index before torch 2.2')
    act = build(name).eval()
    x = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(act, fullgraph=True, backend='eager')
    assert torch.equal(compiled(x), act(x))


def test_layers_are_found_by_themselves():
    """Every activation that the package exports is in the list: nobody has to remember it."""
    exported = {
        name
        for name in mmact.activations.__all__
        if isinstance(cls := getattr(mmact.activations, name), type) and issubclass(cls, nn.Module)
    }
    assert exported - {'Activation', 'ChannelActivation'} == set(OWN)
