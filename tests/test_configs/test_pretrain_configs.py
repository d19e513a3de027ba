# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every ImageNet config builds at full size and is its paper's; detectors load what it learns."""

import argparse
import copy
import functools
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from marks import every_second, slow_unless
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from test_configs import _LinspaceOnCPU, one_of_each, to_meta, without_scope

from mmact.activations import PAU, PWLU, DiTAC, DyReLUB, unresolved
from mmact.cli import build_runner, load_config, prepare_training
from projects.mini_datasets import make_coco, make_imagenet

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {p.stem: p for p in sorted((ROOT / 'configs/pretrain').glob('*.py'))}
KINDS = dict(pwlu=PWLU, dyrelub=DyReLUB, pau=PAU, ditac=DiTAC)
BASELINES = sorted(name for name in CONFIGS if not any(f'-{kind}_' in name for kind in KINDS))
# Activations outside of squeeze-and-excitation and classifier. DY-ReLU of MobileNets stands after
# the last convolution of a block too (A3).
SITES = {
    'resnet10': 1 + 4 * 2,
    'resnet18': 1 + 8 * 2,
    'resnet34': 1 + 16 * 2,
    'resnet50': 1 + 16 * 3,
    'mobilenet-v2': 2 + 17 * 2 - 1,
    'mobilenet-v3-small': 2 + 11 * 2 - 1,
    'mobilenet-v3-large': 2 + 15 * 2 - 1,
    'efficientnet-b0': 2 + 16 * 2 - 1,
    'convnext-tiny': 3 + 3 + 9 + 3,
    'convnext-small': 3 + 3 + 27 + 3,
}
BLOCKS = {'mobilenet-v2': 17, 'mobilenet-v3-small': 11, 'mobilenet-v3-large': 15}
# The papers' parameters in millions, of networks without learned activations.
PARAMETERS = {
    'resnet18-relu_16xb64-100e_in1k': 11.69,
    'resnet50-relu_16xb64-100e_in1k': 25.5,
    'mobilenet-v2-relu_16xb64-200e_in1k': 3.5,
    'mobilenet-v3-small-relu_16xb64-350e_in1k': 2.6,
    'efficientnet-b0-relu_16xb64-350e_in1k': 5.3,
    'mobilenet-v2-x100-relu_8xb32-300e_in1k': 3.5,
    'mobilenet-v2-x075-relu_8xb32-300e_in1k': 2.6,
    'mobilenet-v2-x050-relu_8xb32-300e_in1k': 2.0,
    'mobilenet-v2-x035-relu_8xb32-300e_in1k': 1.7,
    'mobilenet-v3-large-relu_8xb32-300e_in1k': 5.4,
    'mobilenet-v3-small-relu_8xb32-300e_in1k': 2.9,
}


@functools.cache
def _read(path: Path) -> Config:
    return read(path, {})


def cached(name: str) -> Config:
    """A config of the folder, to be changed at will."""
    init_default_scope('mmpretrain')  # which a test forgets at its end
    return copy.deepcopy(_read(CONFIGS[name]))


def read(path: Path, options: dict) -> Config:
    return load_config(
        argparse.Namespace(
            config=str(path), work_dir='', cfg_options=options, launcher='none', local_rank=0
        )
    )


def kind_of(name: str) -> type[nn.Module] | None:
    return next((kind for word, kind in KINDS.items() if f'-{word}_' in name), None)


def network_of(name: str) -> str:
    return max((n for n in SITES if name.startswith(n)), key=len)


# Each network with one activation, each activation in one network.
QUICK = one_of_each(list(CONFIGS), network_of, lambda name: str(kind_of(name)))


@pytest.mark.parametrize('name', slow_unless(QUICK.__contains__, CONFIGS))
def test_builds_at_full_size(name):
    cfg = cached(name)
    converted = cfg.model.type == 'mmact.Converted'
    if converted:
        cfg.model.example = (1, 3, 64, 64)
    # Conversion looks at numbers, which there are none of on meta.
    kind, network = kind_of(name), network_of(name)
    with nullcontext() if converted else torch.device('meta'), _LinspaceOnCPU():
        model = MODELS.build(cfg.model)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    # DiTAC takes many steps on meta; that ResNets and ConvNeXts run is tested elsewhere.
    if kind is not DiTAC and (kind or '-x100-' in name or network.startswith('mobilenet-v3')):
        with torch.device('meta'):
            scores = to_meta(model).eval()(torch.zeros(1, 3, 64, 64), mode='tensor')
        assert scores.shape == (1, 1000)
    assert not unresolved(model)
    if kind is None:
        if name in PARAMETERS:
            assert parameters == pytest.approx(PARAMETERS[name], abs=0.1)
        return
    sites = SITES[network] + (BLOCKS.get(network, 0) if kind is DyReLUB else 0)
    assert sum(isinstance(m, kind) for m in model.modules()) == sites


@pytest.mark.parametrize('name', every_second(sorted(set(CONFIGS) - set(BASELINES))))
def test_only_the_activation_differs_from_its_baseline(name):
    cfg, kind = cached(name), kind_of(name)
    twin = re.sub('-(pwlu|dyrelub|pau|ditac)_', '-relu_', name)
    base = cached(twin if twin in CONFIGS else twin.replace('-relu_', '_'))
    assert (base.get('custom_hooks') or []) == [
        hook for hook in cfg.get('custom_hooks') or [] if hook.type != 'PWLURealignHook'
    ]
    hooks = {hook.type: hook.phase1 for hook in cfg.get('custom_hooks') or [] if 'phase1' in hook}
    assert hooks == ({'PWLURealignHook': 5} if kind is PWLU else {})
    for key in ('train_dataloader', 'val_dataloader', 'train_cfg', 'param_scheduler'):
        assert cfg[key] == base[key], key
    for key in ('head', 'neck', 'train_cfg', 'data_preprocessor'):
        assert cfg.model.get(key) == base.model.get(key), key
    cfg.optim_wrapper.pop('constructor', None)
    base.optim_wrapper.pop('constructor', None)
    assert cfg.optim_wrapper == base.optim_wrapper


def test_recipe_of_pwlu():
    """Section 4.1."""
    epochs = {'resnet': 100, 'mobilenet-v2': 200, 'mobilenet-v3': 350, 'efficientnet': 350}
    decay = {'resnet': 1e-4, 'mobilenet-v2': 4e-5, 'mobilenet-v3': 4e-5, 'efficientnet': 1e-5}
    names = [name for name in BASELINES if '16xb64' in name]
    assert len(names) == 5
    for name in names:
        cfg = cached(name)
        family = next(f for f in epochs if name.startswith(f))
        assert cfg.train_cfg.max_epochs == epochs[family]
        assert f'-{epochs[family]}e_' in name
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
        assert optimizer.weight_decay == decay[family]
        assert cfg.param_scheduler[1].type == 'CosineAnnealingLR'
        assert cfg.param_scheduler[1].begin + cfg.param_scheduler[1].T_max == epochs[family]
        assert 16 * cfg.train_dataloader.batch_size == 1024
        steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
        assert ('AutoAugment' in steps) == (family == 'efficientnet')
        assert {'RandomResizedCrop', 'RandomFlip'} <= set(steps)


def test_recipe_of_dynamic_relu():
    """Section 5.1 and appendix A.4."""
    names = [name for name in BASELINES if '8xb32-300e' in name or '-90e_' in name]
    assert len(names) == 10
    for name in names:
        cfg = cached(name)
        optimizer, head = cfg.optim_wrapper.optimizer, cfg.model.head
        assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
        assert 8 * cfg.train_dataloader.batch_size == 256
        steps = {step.type for step in cfg.train_dataloader.dataset.pipeline}
        mixup = bool(cfg.model.get('train_cfg'))
        if name.startswith('resnet'):
            assert (optimizer.lr, optimizer.weight_decay) == (0.1, 1e-4)
            assert cfg.train_cfg.max_epochs == 90
            assert cfg.param_scheduler[0].milestones == [30, 60]
            assert head.dropout_rate == (0.0 if 'resnet10' in name else 0.1)
            assert not mixup
        else:
            small = 'x035' in name
            assert optimizer.lr == (0.05 if 'v2' in name else 0.1)
            assert optimizer.weight_decay == (2e-5 if small else 3e-5)
            assert head.dropout_rate == (0.1 if small or 'small' in name else 0.2)
            assert cfg.train_cfg.max_epochs == cfg.param_scheduler[0].T_max == 300
            assert ('ColorJitter' in steps) == ('v3-small' not in name)
            assert mixup == ('x100' in name or 'large' in name)
        smooth = head.loss.get('label_smooth_val') == 0.1
        assert smooth == ('resnet10' not in name)


def test_recipe_of_pau():
    """Appendix A.4.1: PyTorch's, and the same for PAU and all other layers."""
    cfg = cached('mobilenet-v2-pau_8xb32-100e_in1k')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.1, 1e-4)
    assert cfg.param_scheduler.milestones == [30, 60, 90]
    assert 'constructor' not in cfg.optim_wrapper
    assert cfg.model.backbone.act_cfg == dict(
        type='PAU', m=5, n=4, init='leaky_relu_0.01', num_groups=1
    )


@pytest.mark.parametrize('name', [n for n in BASELINES if '-relu_' not in n])
def test_official_baselines_are_untouched(name):
    family = re.match('resnet|convnext|mobilenet-v3', name)[0].replace('-', '_')
    base = f'{get_installed_path("mmpretrain")}/.mim/configs/{family}/{name}.py'
    ours, theirs = Config.fromfile(CONFIGS[name]), Config.fromfile(base)
    assert without_scope(ours._cfg_dict) == without_scope(theirs._cfg_dict)


def train(path: Path, work_dir: Path, options: dict):
    cfg = read(path, {'work_dir': str(work_dir), 'randomness.seed': 0, **options})
    runner = build_runner(cfg)
    prepare_training(runner)
    runner.train()
    return runner


def test_pretrain_then_detect(tmp_path):
    """A PWLU ResNet-18 learns classes, and a RetinaNet begins with all that it has learned."""
    images = make_imagenet(tmp_path / 'imagenet', 8, 4, (48, 64), quiet=True)
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val')
        for key, value in {
            'dataset.data_root': str(images),
            'batch_size': 4,
            'num_workers': 0,
            'persistent_workers': False,
        }.items()
    }
    small = {'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8}
    runner = train(
        CONFIGS['resnet18-pwlu_16xb64-100e_in1k'],
        tmp_path / 'classify',
        {
            **loaders,
            **small,
            'model.head.in_channels': 64,
            'train_dataloader.dataset.pipeline.1.scale': 64,
            'val_dataloader.dataset.pipeline.1.scale': 64,
            'val_dataloader.dataset.pipeline.2.crop_size': 64,
            'train_cfg.max_epochs': 2,
            'custom_hooks.0.phase1': 1,
            'param_scheduler': None,
        },
    )
    assert 0 <= runner.message_hub.log_scalars['val/accuracy/top1'].current() <= 100
    trained = runner.model.backbone.state_dict()
    learned = [m for m in runner.model.modules() if isinstance(m, PWLU)]
    assert any((m.points.detach() - PWLU(m.num_channels).points).abs().max() > 0 for m in learned)

    coco = f'{make_coco(tmp_path / "coco", 2, 1, (64, 64), quiet=True)}/'
    checkpoint = tmp_path / 'classify/epoch_2.pth'
    cfg = read(
        ROOT / 'configs/pwlu/retinanet_r50-scratch-pwlu_fpn_syncbn_270k_coco.py',
        {
            **small,
            'work_dir': str(tmp_path / 'detect'),
            'model.backbone.depth': 18,
            'model.neck.in_channels': [8, 16, 32, 64],
            'model.neck.out_channels': 16,
            'model.bbox_head.in_channels': 16,
            'model.bbox_head.feat_channels': 16,
            'train_dataloader.dataset.data_root': coco,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.pipeline.2.scale': (64, 64),
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 10,
            'custom_hooks.0.phase1': 1,
            'val_evaluator.ann_file': f'{coco}annotations/instances_val2017.json',
            'val_dataloader.dataset.data_root': coco,
        },
    )
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'
    )
    detector = build_runner(cfg)
    detector.model.init_weights()
    loaded = detector.model.backbone.state_dict()
    assert set(loaded) == set(trained)
    assert all(torch.equal(loaded[key], trained[key]) for key in trained)
    detector.train()
    assert detector.iter == 2
    assert all(p.isfinite().all() for p in detector.model.parameters())
