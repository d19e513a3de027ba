# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments are refused in the name that the config has, and dumped configs can be read."""

import copy
import pickle

import pytest
import torch
from torch import nn

import mmact
from mmact.activations import PAU, PWLU, Activation, AReLU, ChannelActivation, DyReLUC

OURS = {r.name: r.cls for r in mmact.list_activations() if issubclass(r.cls, Activation)}


@pytest.mark.parametrize('name', OURS)
def test_an_unknown_argument(name):
    """Also where the constructor is inherited or hands arguments on; with the way out."""
    cls = OURS[name]
    with pytest.raises(TypeError) as caught:
        cls(number_of_wheels=8)
    text = str(caught.value)
    assert text.startswith(f'{cls.__name__}: got an unexpected keyword argument')
    for word in ("'number_of_wheels'", 'it takes ', 'inplace', '_delete_=True'):
        assert word in text, text
    with pytest.raises(TypeError, match=rf'{cls.__name__}: too many positional arguments'):
        cls(8, 8)


def test_arguments_that_are_handed_on():
    with pytest.raises(TypeError, match='temperature, gamma, K, reduction'):
        DyReLUC(4, tau=3)
    assert DyReLUC(4, gamma=1.0, K=3).K == 3


def test_subclasses_with_arguments_of_their_own():
    class Scaled(AReLU):
        def __init__(self, scale, **kwargs):
            super().__init__(**kwargs)
            self.scale = scale

    act = Scaled(2.0, alpha=0.5)
    for other in (copy.deepcopy(act), copy.copy(act)):
        assert (other.scale, other.alpha.item()) == (2.0, 0.5)
    with pytest.raises(TypeError, match=r"^Scaled: .*'wheels'; it takes scale, alpha, beta"):
        Scaled(1.0, wheels=3)
    with pytest.raises(TypeError, match='scale'):
        Scaled()
    assert pickle.loads(pickle.dumps(AReLU())).alpha.shape == (1,)


@pytest.mark.parametrize('name', OURS)
def test_wrong_values_are_refused_in_the_layers_own_name(name):
    """RPAU's not in PAU's, DyReLUB's not in a base class's."""
    cls = OURS[name]
    for argument in ('num_channels', 'num_groups', 'channel_dim', 'K', 'm', 'init', 'version'):
        with pytest.raises((TypeError, ValueError), match=rf'^{cls.__name__}: .*{argument}'):
            cls(**{argument: -3.5})


@pytest.mark.parametrize('name', [n for n in OURS if issubclass(OURS[n], ChannelActivation)])
def test_a_config_of_another_activation(name):
    """An act_cfg that inherits another's arguments names the type that it has."""
    cnn = pytest.importorskip('mmcv.cnn')
    with pytest.raises(TypeError, match=rf"{name}: .*'wheels'.*_delete_=True"):
        cnn.ConvModule(3, 4, 1, act_cfg=dict(type=name, wheels=3))


@pytest.mark.parametrize('name', ['PAU', 'RPAU', 'PWLU', 'GroupRational'])
@pytest.mark.parametrize(
    ('statement', 'init', 'dumped'),
    [
        ('import torch', 'torch.tanh', 'torch.tanh'),
        ('from torch import sin', 'sin', 'torch.sin'),
        ('from torch.nn.functional import softsign', 'softsign', 'torch.nn.functional.softsign'),
        ('', "'swish_1.5'", 'swish_1.5'),
    ],
)
def test_a_dumped_config_gives_the_same_layer(tmp_path, name, statement, init, dumped):
    config = pytest.importorskip('mmengine.config')
    registry = pytest.importorskip('mmengine.registry')
    path = tmp_path / 'config.py'
    path.write_text(f'{statement}\nact_cfg = dict(type={name!r}, num_groups=8, init={init})\n')
    cfg = config.Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    again = config.Config.fromfile(tmp_path / 'dumped.py')
    assert again.act_cfg.init == dumped
    one, other = (registry.MODELS.build(c.act_cfg) for c in (cfg, again))
    parameters = list(zip(one.parameters(), other.parameters(), strict=True))
    assert parameters
    assert all(torch.equal(a, b) for a, b in parameters)


def test_names_of_what_is_no_function():
    for init in ('torch.float32', 'torch.nonsense', 'nowhere.sin', 'torch.', '.sin'):
        for cls in (PAU, PWLU):
            with pytest.raises((TypeError, ValueError), match=cls.__name__):
                cls(num_groups=1, init=init)
    assert isinstance(nn.Sequential(PWLU(num_groups=1, init='torch.sin'))[0], PWLU)
