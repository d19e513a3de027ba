# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Channel counts by registration, in plain PyTorch modules. OpenMMLab's: test_openmmlab.py."""

import copy
import gc
import inspect
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn

import mmact
from mmact.activations import PWLU, ChannelActivation, FReLU, unresolved


class Block(nn.Module):
    """A module whose children are given by name, in order, and called in that order."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


OF_CHANNELS = {
    record.name: record.cls
    for record in mmact.list_activations()
    if issubclass(record.cls, ChannelActivation)
    and not Block(conv=nn.Conv2d(3, 8, 1), act=record.cls()).act.num_groups
}


@pytest.mark.parametrize(
    ('layers', 'channels', 'channel_dim'),
    [
        ([nn.Conv1d(3, 8, 1)], 8, 1),
        ([nn.Conv2d(3, 8, 1)], 8, 1),
        ([nn.Conv3d(3, 8, 1)], 8, 1),
        ([nn.ConvTranspose2d(3, 8, 1)], 8, 1),
        ([nn.Linear(3, 8)], 8, -1),
        ([nn.Bilinear(3, 4, 8)], 8, -1),
        ([nn.BatchNorm1d(8)], 8, 1),
        ([nn.BatchNorm2d(8)], 8, 1),
        ([nn.SyncBatchNorm(8)], 8, 1),
        ([nn.InstanceNorm2d(8)], 8, 1),
        ([nn.GroupNorm(2, 8)], 8, 1),
        ([nn.LayerNorm(8)], 8, -1),
        ([nn.LayerNorm((5, 8))], 8, -1),
        ([getattr(nn, 'RMSNorm', nn.LayerNorm)(8)], 8, -1),  # RMSNorm came with torch 2.4
        # The last one counts, and layers that do not change channels are looked through.
        ([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)], 8, 1),
        ([nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)], 8, 1),
        ([nn.Conv2d(3, 8, 1), nn.Dropout(), nn.Identity(), nn.MaxPool2d(2)], 8, 1),
        ([nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Upsample(scale_factor=2)], 8, 1),
        ([nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 8)], 8, -1),
        ([nn.Linear(3, 8), nn.BatchNorm1d(8)], 8, 1),
        ([nn.Conv2d(3, 8, 1), nn.LayerNorm(8)], 8, -1),
        ([nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))], 8, 1),
        ([nn.Sequential(nn.Sequential(nn.Linear(3, 8)), nn.Dropout())], 8, -1),
        ([nn.Conv2d(3, 8, 1), nn.Sequential(nn.ReLU(), nn.Dropout())], 8, 1),
        ([nn.Conv2d(3, 8, 1), nn.Sequential()], 8, 1),
        ([nn.LazyConv2d(8, 1)], 8, 1),
    ],
    ids=lambda v: '-'.join(type(m).__name__ for m in v) if isinstance(v, list) else None,
)
@pytest.mark.parametrize('parent', ['Sequential', 'attributes', 'ModuleList'])
def test_siblings(layers, channels, channel_dim, parent):
    act = PWLU()
    layers = copy.deepcopy(layers)
    if parent == 'Sequential':
        model = nn.Sequential(*layers, act, nn.Conv2d(channels, 99, 1))
    elif parent == 'attributes':
        model = Block(**{f'layer{i}': layer for i, layer in enumerate([*layers, act])})
    else:
        model = nn.ModuleList([*layers, act])
    assert (act.num_channels, act.channel_dim) == (channels, channel_dim)
    assert act.rows('points').shape == (channels, 17)
    assert act.points in set(model.parameters())
    assert unresolved(model) == []


def test_ordered_dict_and_later_additions():
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), act=PWLU()))
    assert model.act.num_channels == 4
    model.append(nn.Conv2d(4, 6, 1)).append(PWLU()).extend([nn.Linear(5, 7), PWLU()])
    model.add_module('last', PWLU())
    assert [m.num_channels for m in model if isinstance(m, PWLU)] == [4, 6, 7, 7]
    other = Block(list=nn.ModuleList(), dict=nn.ModuleDict())
    other.list.extend([nn.Linear(3, 5), PWLU()])
    other.dict['fc'] = nn.Linear(5, 6)
    other.dict['act'] = PWLU()
    assert (other.list[1].num_channels, other.dict['act'].num_channels) == (5, 6)


def test_the_parents_own_count_is_the_last_resort():
    class Own(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.out_channels = 12
            if first is not None:
                self.first = first
            self.act = PWLU()

    assert Own(None).act.num_channels == 12
    assert Own(nn.Dropout()).act.num_channels == 12
    assert Own(nn.Linear(3, 5)).act.num_channels == 5


@pytest.mark.parametrize('numbered', [('conv', 'act'), ('fc', 'relu'), ('block.conv', 'act')])
def test_activations_go_with_what_has_their_number(numbered):
    """conv1, conv2, act1, act2, in this order; mmcv and timm number their layers."""
    layer, act = numbered
    model = nn.Module()
    for k, (before, after) in enumerate([(3, 8), (8, 5)], 1):
        made = nn.Linear(before, after) if layer == 'fc' else nn.Conv2d(before, after, 1)
        made = Block(conv=made, bn=nn.BatchNorm2d(after)) if '.' in layer else made
        setattr(model, f'{layer.partition(".")[0]}{k}', made)
        setattr(model, f'norm{k}', nn.BatchNorm2d(after))
    for k in (1, 2):
        setattr(model, f'{act}{k}', PWLU())
    assert [getattr(model, f'{act}{k}').num_channels for k in (1, 2)] == [8, 5]
    model.act3, model.act = PWLU(), PWLU()  # without a fellow: as ever
    assert (model.act3.num_channels, model.act.num_channels) == (5, 5)


def test_norms_and_layers_that_hold_their_activation():
    def holding(base):
        def __init__(self, *args, **kwargs):
            base.__init__(self, *args, **kwargs)
            self.drop, self.act = nn.Identity(), PWLU()

        return type(f'{base.__name__}Act', (base,), {'__init__': __init__})

    class FrozenBatchNormAct(nn.Module):
        """Not one of PyTorch's classes, but named like one."""

        def __init__(self, num_features):
            super().__init__()
            self.num_features = num_features
            self.act = PWLU()

    for base, args, channel_dim in [
        (nn.BatchNorm2d, (8,), 1),
        (nn.SyncBatchNorm, (8,), 1),
        (nn.InstanceNorm2d, (8,), 1),
        (nn.GroupNorm, (2, 8), 1),
        (nn.LayerNorm, (8,), -1),
        (nn.Linear, (3, 8), -1),
        (nn.Conv2d, (3, 8, 1), 1),
    ]:
        act = holding(base)(*args).act
        assert (act.num_channels, act.channel_dim) == (8, channel_dim), base
    assert FrozenBatchNormAct(8).act.num_channels == 8

    class Model(nn.Module):
        """num_features is what comes out at its end."""

        num_features = 1000

        def __init__(self):
            super().__init__()
            self.act = PWLU()

    assert not Model().act.resolved


def test_a_layer_with_its_norm():
    """LeViT's; a module whose layers are of several widths says nothing."""

    def pair(*layers):
        return Block(**{f'layer{chr(97 + k)}': layer for k, layer in enumerate(layers)})

    linear = pair(nn.Linear(3, 8), nn.BatchNorm1d(8))
    act = Block(first=linear, act=PWLU()).act
    assert (act.num_channels, act.channel_dim) == (8, -1)
    act = Block(first=pair(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), act=PWLU()).act
    assert (act.num_channels, act.channel_dim) == (8, 1)
    squeeze = pair(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1))
    assert Block(conv=nn.Conv2d(3, 4, 1), se=squeeze, act=PWLU()).act.num_channels == 4
    assert not Block(se=squeeze, act=PWLU()).act.resolved


@pytest.mark.parametrize(
    'name', ['efficientnet_b0', 'mobilenetv3_small_050', 'mobilenetv4_conv_small', 'regnety_002']
)
def test_models_of_timm(name):
    """Their norms hold the activations."""
    timm = pytest.importorskip('timm')
    model = timm.create_model(name, act_layer=PWLU).eval()
    assert sum(isinstance(m, PWLU) for m in model.modules()) > 15
    assert unresolved(model) == []
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))


def test_a_count_that_is_none_is_no_answer():
    """Lazy layers and hand-made ones: out_channels=None, a method, or a tuple."""

    class Odd(nn.Module):
        out_channels = None
        num_features = (1, 2)

        def out_features(self):
            return 3

    act = PWLU()
    Block(odd=Odd(), act=act)
    assert not act.resolved
    Block(conv=nn.Conv2d(3, 5, 1), odd=Odd(), act=act)
    assert act.num_channels == 5


@pytest.mark.parametrize('way', ['setattr', 'index', 'add_module', 'register_module', 'delete'])
def test_replacing_an_activation(way):
    """The layers before the place count, not the ones that follow it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU())
    act = PWLU()
    if way == 'setattr':
        setattr(model, '1', act)
    elif way == 'index':
        model[1] = act
    elif way == 'delete':
        del model[2], model[1]
        model[1] = act
    else:
        getattr(model, way)('1', act)
    assert act.num_channels == 8
    assert model(torch.randn(2, 3, 4, 4)).shape[1] == (8 if way == 'delete' else 16)


def test_converting_a_network():
    """The loop of a converter: every ReLU becomes a PWLU of the right width."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
    )
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, PWLU())
    layers = [m for m in model.modules() if isinstance(m, PWLU)]
    assert [(m.num_channels, m.channel_dim) for m in layers] == [(4, 1), (6, 1), (5, -1)]
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_arguments_win_over_the_surroundings():
    act = PWLU(5)
    nn.Sequential(nn.Linear(3, 8), act)
    assert (act.num_channels, act.channel_dim) == (5, -1)
    act = PWLU(5, channel_dim=2)
    nn.Sequential(nn.Linear(3, 8), act)
    assert (act.num_channels, act.channel_dim) == (5, 2)
    act = PWLU(channel_dim=2)
    nn.Sequential(nn.Conv2d(3, 8, 1), act)
    assert (act.num_channels, act.channel_dim) == (8, 2)
    act = PWLU(num_groups=1)
    nn.Sequential(nn.Conv2d(3, 8, 1), act)
    assert (act.num_channels, act.num_functions) == (None, 1)
    act = FReLU()
    nn.Sequential(nn.Linear(3, 8), act)
    assert (act.num_channels, act.channel_dim) == (8, 1)


def test_an_answer_is_final():
    """Registered a second time, elsewhere, the layer keeps its parameters."""
    act = PWLU()
    nn.Sequential(nn.Conv2d(3, 8, 1), act)
    points = act.points
    nn.Sequential(nn.Linear(3, 5), act)
    assert (act.num_channels, act.channel_dim) == (8, 1)
    assert act.points is points


def test_parameters_take_dtype_and_device_from_the_siblings():
    model = nn.Sequential(nn.Conv2d(3, 4, 1).double(), PWLU(), FReLU())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model[1].running_mean.dtype == torch.float64
    assert model[1].num_batches_tracked.dtype == torch.int64
    model(torch.randn(2, 3, 4, 4, dtype=torch.float64)).sum().backward()
    model = nn.Sequential(nn.Conv2d(3, 4, 1, device='meta'), PWLU())
    assert {t.device.type for t in model.state_dict().values()} == {'meta'}


def test_resolving_draws_no_random_numbers():
    """Weights of the other layers, by seed, are those of the network with ReLU."""
    weights = []
    for act in (nn.ReLU, PWLU):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), act(), nn.Conv2d(4, 5, 1))
        weights.append(model[2].weight)
    assert torch.equal(*weights)


def test_optimizers_see_the_parameters_before_the_first_forward():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), PWLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[1].rows('points').clone()
    model(3 * torch.randn(8, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].rows('points'), before)


@pytest.mark.parametrize('kind', [PWLU, FReLU])
def test_copies(kind):
    """Of layers that know their channels, and of layers that will learn them later."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind())
    other = copy.deepcopy(model)
    assert other[1].num_channels == 4
    assert unresolved(other) == []
    assert {id(p) for p in other.parameters()}.isdisjoint({id(p) for p in model.parameters()})
    template = kind()
    first, second = copy.deepcopy(template), copy.deepcopy(template)
    nn.Sequential(nn.Conv2d(3, 4, 1), first)
    nn.Sequential(nn.Conv2d(3, 6, 1), second)
    assert (first.num_channels, second.num_channels) == (4, 6)
    assert not template.resolved
    holder = nn.ModuleList([kind()])
    assert not copy.deepcopy(holder)[0].resolved


def test_a_copy_of_an_unplaced_layer_resolves_at_its_new_place():
    holder = nn.Sequential(PWLU())
    copied = copy.deepcopy(holder)[0]
    model = nn.Sequential(nn.Conv2d(3, 7, 1), copied)
    assert copied.num_channels == 7
    model(torch.zeros(1, 3, 2, 2))


# Where there is no answer -------------------------------------------------------------------------


def test_the_error_names_the_path_and_the_argument():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(OrderedDict(block=Block(drop=nn.Dropout(), act=PWLU())))
            self.head = nn.Conv2d(3, 4, 1)

    model = Net()
    with pytest.raises(RuntimeError) as caught:
        model.stem(torch.zeros(2, 3, 4, 4))
    for word in ('PWLU', "'stem.block.act'", 'Net', 'num_channels='):
        assert word in str(caught.value), str(caught.value)


def test_the_error_without_a_parent():
    with pytest.raises(RuntimeError, match=r'PWLU does not know.*num_channels'):
        PWLU()(torch.zeros(2, 3))


@pytest.mark.parametrize('name', OF_CHANNELS)
def test_a_wrong_width_is_an_error_with_the_path(name):
    """In forward, for what the surroundings got wrong."""
    cls = OF_CHANNELS[name]
    model = nn.Sequential(OrderedDict(neck=Block(conv=nn.Conv2d(3, 8, 1), act=cls())))
    with pytest.raises(ValueError) as caught:
        model.neck.act(torch.zeros(2, 6, 4, 4))
    text = str(caught.value)
    for word in (name, "'neck.act' of Sequential", '(2, 6, 4, 4)', 'num_channels'):
        assert word in text, text
    assert ('num_groups=1' in text) == ('num_groups' in inspect.signature(cls).parameters)
    other = copy.deepcopy(model)  # which no hook has seen
    with pytest.raises(ValueError, match=r"'neck\.act' of Sequential"):
        other.neck.act(torch.zeros(2, 6, 4, 4))


def test_the_error_does_not_stand_in_the_way_of_inspection():
    """repr, state_dict, to(), deepcopy and iteration work on a model that is not complete."""
    model = nn.Sequential(PWLU(), FReLU(), nn.Conv2d(3, 4, 1), PWLU())
    assert repr(model).count('num_channels=None') == 2
    assert set(model.state_dict()) >= {'2.weight', '3.points'}
    assert not any(key.startswith(('0.', '1.')) for key in model.state_dict())
    copy.deepcopy(model).double().eval()
    assert len(list(model[0].parameters())) == 0


def test_unresolved_lists_paths_and_modules():
    model = Block(
        a=nn.Sequential(PWLU(), nn.Conv2d(3, 4, 1), PWLU()),
        b=Block(act=FReLU()),
        c=PWLU(num_groups=1),
        d=PWLU(4),
    )
    assert unresolved(model) == [('a.0', model.a[0]), ('b.act', model.b.act)]
    model.a[0] = PWLU(3)
    model.b.act = FReLU(3)
    assert unresolved(model) == []
    act = PWLU()
    assert unresolved(act) == [('', act)]


def test_an_unresolved_layer_takes_the_answer_of_a_later_parent():
    act = PWLU()
    holder = nn.ModuleList([act])
    assert not act.resolved
    model = nn.Sequential(nn.Conv2d(3, 6, 1), act)
    assert act.num_channels == 6
    assert unresolved(holder) == unresolved(model) == []


def test_nothing_is_kept_alive():
    """Nothing remembers where unresolved layers stand."""
    model = nn.Sequential(OrderedDict(act=PWLU()))
    references = [weakref.ref(model), weakref.ref(model.act)]
    del model
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_other_modules_are_left_alone():
    """The registration hook is global: it sees the modules of every library."""

    class Hostile(nn.Module):
        """Fails with an error of its own, as the wrapper that torch.compile makes does."""

        def __getattr__(self, name):
            raise KeyError(name)

    model = Hostile()
    model.conv = nn.Conv2d(3, 4, 1)
    model.act = PWLU()
    assert model._modules['act'].num_channels == 4


def test_registering_none_or_parameters():
    model = nn.Module()
    model.register_module('act', None)
    model.act = PWLU(3)
    model.act = None
    assert model.act is None


def test_subclasses_build_what_they_need():
    """The interface for further activations."""

    class Scale(ChannelActivation):
        def build(self, num_channels):
            self.scale = nn.Parameter(torch.ones(num_channels))

        def forward(self, x):
            self.require_resolved()
            return x * self.scale.view(-1, 1, 1)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Scale())
    assert model[1].scale.shape == (4,)
    with pytest.raises(RuntimeError, match='Scale.*num_channels'):
        Scale()(torch.zeros(1))
    with pytest.raises(NotImplementedError):
        nn.Sequential(nn.Conv2d(3, 4, 1), ChannelActivation())
