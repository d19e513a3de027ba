# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Names in configs lead to mmact's classes, from any scope and under any distribution's name."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from marks import slow

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

import mmact
from mmact import activations
from mmact.activations.standard import STANDARD
from mmact.registry import register_all

CODEBASES = [name for name in ('mmdet', 'mmseg', 'mmpose') if find_spec(name) is not None]
ACTIVATIONS = [
    name
    for name in activations.__all__
    if isinstance(getattr(activations, name), type)
    and issubclass(getattr(activations, name), activations.Activation)
    and name not in ('Activation', 'ChannelActivation')
]


@pytest.mark.parametrize('scope', [None, *CODEBASES])
def test_activations_resolve_from_any_scope(scope):
    assert {'PWLU', 'FReLU'} <= set(ACTIVATIONS)
    with (
        DefaultScope.overwrite_default_scope(scope),
        MODELS.switch_scope_and_registry(scope) as registry,
    ):
        for name in ACTIVATIONS:
            assert registry.get(name) is getattr(activations, name)
            assert registry.get(f'mmact.{name}') is getattr(activations, name)
        layer = MODELS.build(dict(type='PWLU', num_channels=3, num_intervals=8))
    assert layer.rows('points').shape == (3, 9)


@pytest.mark.parametrize('scope', [None, *CODEBASES])
def test_activations_of_pytorch_resolve_from_any_scope(scope):
    """mmcv's own where it has one, and from the first to the last by ConvModule's rules."""
    cnn = pytest.importorskip('mmcv.cnn')
    with DefaultScope.overwrite_default_scope(scope):
        for name in STANDARD:
            model = cnn.ConvModule(3, 4, 1, act_cfg=dict(type=name))
            assert model.activate is not None
            assert MODELS.get(f'mmact.{name}') is MODELS.get(name)
    assert isinstance(MODELS.build(dict(type='Softplus', beta=2.0)), nn.Softplus)
    assert MODELS.build(dict(type='Swish')).__class__.__module__.startswith('mmcv')


def names_after(*statements):
    """The class of each of PyTorch's activations in a fresh interpreter."""
    code = (
        'from mmengine.registry import MODELS\n'
        + ''.join(f'{statement}\n' for statement in statements)
        + 'from mmact.activations.standard import STANDARD\n'
        'for name in STANDARD:\n'
        '    cls = MODELS.get(name)\n'
        '    print(name, f"{cls.__module__}.{cls.__qualname__}")\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(line.split() for line in result.stdout.splitlines())


@slow
def test_orders_of_import():
    """Whichever of mmact and mmcv comes first, a name that mmcv registers means mmcv's class."""
    pytest.importorskip('mmcv')
    mmact_first = names_after('import mmact', 'import mmcv.cnn')
    # As a later version of mmcv might.
    registers = 'MODELS.register_module(name="Mish", module=dict)'
    mmcv_first = names_after('import mmcv.cnn', registers, 'import mmact')
    assert mmact_first['Swish'].startswith('mmcv.')
    assert mmact_first['Softplus'] == 'mmact.activations.standard.Softplus'
    assert mmcv_first == {**mmact_first, 'Mish': 'builtins.dict'}


def test_hooks_and_constructor_are_registered():
    for name in ('PWLURealignHook', 'LearnedActivationHook'):
        assert HOOKS.get(name).__module__.startswith('mmact.engine')
    assert OPTIM_WRAPPER_CONSTRUCTORS.get('ActivationParamConstructor') is not None


def test_registering_again_changes_nothing(recwarn):
    before = dict(MODELS.module_dict)
    register_all()
    assert dict(MODELS.module_dict) == before
    assert not recwarn.list


def test_a_name_that_another_package_took_is_an_error():
    code = (
        'from mmengine.registry import MODELS\n'
        'MODELS.register_module(name="PWLU", module=dict)\n'
        'import mmact'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'PWLU is already registered' in result.stderr


def test_import_is_light_and_lazy():
    code = (
        'import sys, mmact\n'
        'heavy = {"mmdet", "mmseg", "mmpose", "mmact.models"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
    'base',
    [
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
        'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
        'mmact::pwlu/mask-rcnn_r50-scratch-pwlu_fpn_syncbn_270k_coco.py',
    ],
)
def test_configs_of_codebases_can_be_inherited(base, tmp_path):
    codebase = base.partition(':')[0]
    if codebase == 'mmact':
        if not (Path(mmact.__file__).parent / '.mim').exists():
            pytest.skip('only an installed mmact carries its configs')
    elif codebase not in CODEBASES:
        pytest.skip(f'{codebase} is not installed')
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{base}'\n")
    assert Config.fromfile(path).model.type
