# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every key-point config learns, and says what the Dynamic ReLU paper says.

One of each network, and of each activation in backbone and head, is trained and evaluated.
"""

import argparse
import copy
import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from marks import every_second, slow_unless
from test_configs import one_of_each
from torch import nn

pytest.importorskip('mmpose')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path

from mmact.activations import DyReLUA, DyReLUB, DyReLUC, unresolved
from mmact.cli import build_runner, load_config, prepare_training
from projects.mini_datasets import make_coco

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted((ROOT / 'configs/dyrelu').glob('td-hm_*.py'))
DEMO = sorted((ROOT / 'configs/demo').glob('td-hm_*.py'))
KINDS = dict(relu=nn.ReLU, dyrelua=DyReLUA, dyrelub=DyReLUB, dyreluc=DyReLUC)
# Activations of a backbone: stem, last convolution, and in each block A1 (if it expands), A2 and A3
# (if dynamic).
BLOCKS = {'MobileNetV2': 17, 'small_early': 11, 'large': 15}
UNEXPANDED = {'MobileNetV2': 1, 'small_early': 1, 'large': 1}
# Table 10 without the columns of the counts: AP, AP50, AP75, APM, APL, AR.
TABLE10 = {
    'mobilenetv2-relu_irhead-relu': (64.6, 87.0, 72.4, 61.3, 71.0, 71.0),
    'mobilenetv2-dyreluc_irhead-dyreluc': (68.1, 88.5, 76.2, 64.8, 74.3, 73.9),
    'mobilenetv2-x05-relu_irhead-relu': (59.2, 84.3, 66.4, 56.2, 65.0, 65.6),
    'mobilenetv2-x05-dyreluc_irhead-dyreluc': (63.3, 86.3, 71.4, 60.3, 69.2, 69.4),
    'mobilenetv3-large_irhead-relu': (65.7, 87.4, 74.1, 62.3, 72.2, 71.7),
    'mobilenetv3-large-dyreluc_irhead-dyreluc': (67.2, 88.2, 75.4, 64.1, 73.2, 72.9),
    'mobilenetv3-small_irhead-relu': (57.1, 83.8, 63.7, 55.0, 62.2, 64.1),
    'mobilenetv3-small-dyreluc_irhead-dyreluc': (60.7, 85.7, 68.1, 58.1, 66.3, 67.3),
}
# AP by backbone (rows) and head (columns), in the order of KINDS.
TABLE12 = [
    (59.2, 57.0, 58.4, 61.0),
    (58.8, 51.5, 56.5, 62.4),
    (61.5, 54.3, 58.6, 63.2),
    (61.9, 53.5, 58.8, 63.3),
]
COMBINATIONS = {
    f'mobilenetv2-x05-{backbone}_irhead-{head}': ap
    for backbone, row in zip(KINDS, TABLE12, strict=True)
    for head, ap in zip(KINDS, row, strict=True)
}


def _short(path: Path) -> str:
    """The special part of a config's name: `mobilenetv2-relu_irhead-relu`."""
    return path.stem.removeprefix('td-hm_').removesuffix('_8xb64-210e_coco-256x192')


def _kinds(path: Path) -> tuple[str, str]:
    """Backbone and head by the name; both the same in the demo."""
    words = path.stem.replace('_', '-').split('-')
    named = [word for word in words if word in KINDS] or ['relu']
    return (named[0], named[-1]) if 'v3' not in path.stem or len(named) > 1 else ('', named[0])


@functools.cache
def _read(path: Path) -> Config:
    return load_config(
        argparse.Namespace(
            config=str(path), work_dir='', cfg_options=None, launcher='none', local_rank=0
        )
    )


def _load(path: Path) -> Config:
    return copy.deepcopy(_read(path))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp('data') / 'coco'
    return f'{make_coco(root, num_train=4, num_val=2, size=(96, 96), quiet=True)}/'


def _small(root: str) -> dict:
    """The --cfg-options for two iterations on small pictures; the models stay as they are."""
    size = dict(input_size=(64, 64), heatmap_size=(16, 16), sigma=1)
    options = {
        'train_dataloader.dataset.pipeline.5.input_size': size['input_size'],
        'val_dataloader.dataset.pipeline.2.input_size': size['input_size'],
        'val_dataloader.dataset.bbox_file': f'{root}person_detection_results/'
        'COCO_val2017_detections_AP_H_56_person.json',
        'val_evaluator.ann_file': f'{root}annotations/person_keypoints_val2017.json',
        'train_dataloader.dataset.indices': 4,
        'train_dataloader.batch_size': 2,
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
        # The first steps of the warm-up are too small to move a float32 weight of 1.
        'param_scheduler.0.start_factor': 0.1,
        'default_hooks.checkpoint': None,
        'randomness.seed': 0,
    }
    for key, value in size.items():
        options[f'model.head.decoder.{key}'] = value
        options[f'train_dataloader.dataset.pipeline.6.encoder.{key}'] = value
    for loader in ('train_dataloader', 'val_dataloader'):
        options[f'{loader}.dataset.data_root'] = root
        options[f'{loader}.num_workers'] = 0
        options[f'{loader}.persistent_workers'] = False
    return options


def _activations(module: nn.Module) -> list[nn.Module]:
    """Activations of stages and blocks, without those of squeeze-and-excitation."""
    paths = ((name.split('.'), m) for name, m in module.named_modules())
    return [m for path, m in paths if path[-1] == 'activate' and 'se' not in path]


TRAINED = one_of_each(
    PUBLISHED,
    lambda path: re.sub('-(relu|dyrelu.)$', '', _short(path).partition('_irhead')[0]),
    lambda path: _kinds(path)[0],
    lambda path: _kinds(path)[1],
)


def _name_of(path: Path) -> str:
    return f'{path.parent.name}/{_short(path)}'


def _check_activations(path: Path, cfg: Config, model: nn.Module) -> None:
    """All that the config's name says, at all places."""
    assert not unresolved(model)
    for module, kind in zip((model.backbone, model.head), _kinds(path), strict=True):
        acts = _activations(module)
        if kind:  # not the mix of MobileNetV3
            assert {type(act) for act in acts} == {KINDS[kind]}
        # The paper's DY-ReLU stands after the last convolution of a block too; the demo's does not.
        per_block = 3 if kind.startswith('dy') and path in PUBLISHED else 2
        if module is model.head:
            sites = 4 * per_block - 1
        else:
            name = cfg.model.backbone.get('arch', 'MobileNetV2')
            sites = 2 + BLOCKS[name] * per_block - UNEXPANDED[name]
        assert len(acts) == sites


# With one kind of Dynamic ReLU in backbone and head, the baseline, and the demo.
QUICK = [*TRAINED[:2], *DEMO[:1]]


@pytest.mark.parametrize('path', slow_unless(QUICK.__contains__, TRAINED + DEMO), ids=_name_of)
def test_trains_and_evaluates(path, data, tmp_path):
    cfg = _load(path)
    cfg.merge_from_dict({**_small(data), 'work_dir': str(tmp_path)})
    runner = build_runner(cfg)
    prepare_training(runner)
    model = runner.model
    _check_activations(path, cfg, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    runner.train()
    assert runner.iter == 2
    moved = [n for n, p in model.named_parameters() if not torch.equal(before[n], p)]
    # A bias before a normalisation, or a channel that is zero everywhere, has no gradient.
    assert len(moved) > 0.95 * len(before), set(before) - set(moved)
    assert all(p.isfinite().all() for p in model.parameters())
    assert 0 <= runner.message_hub.log_scalars['val/coco/AP'].current() <= 1


@pytest.mark.parametrize('path', every_second(sorted(set(PUBLISHED) - set(TRAINED))), ids=_name_of)
def test_two_steps_move_everything(path):
    """A training without data, losses and evaluation; those of its twins have them all."""
    cfg = _load(path)
    init_default_scope('mmpose')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    _check_activations(path, cfg, model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()
    for _ in range(2):  # in the first, layers behind one that starts at zero have no gradient
        maps = model.head(model.extract_feat(torch.randn(2, 3, 64, 64)))
        assert maps.shape == (2, 17, 16, 16)
        optimizer.zero_grad()
        (maps * torch.randn_like(maps)).mean().backward()
        optimizer.step()
    moved = [n for n, p in model.named_parameters() if not torch.equal(before[n], p)]
    assert len(moved) > 0.95 * len(before), set(before) - set(moved)
    assert all(p.isfinite().all() for p in model.parameters())


def _without_scope(node):
    """A part of a config without the marks of the codebase that it is inherited from."""
    if isinstance(node, dict):
        return {key: _without_scope(value) for key, value in node.items() if key != '_scope_'}
    return [_without_scope(item) for item in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize('path', PUBLISHED, ids=_short)
def test_settings_of_the_paper(path):
    cfg = _load(path)
    assert cfg.train_cfg.max_epochs == 210
    assert cfg.optim_wrapper.optimizer.type == 'Adam'
    assert cfg.optim_wrapper.optimizer.lr == 0.001
    assert cfg.param_scheduler[1].milestones == [170, 200]
    assert cfg.param_scheduler[1].gamma == 0.1
    assert cfg.model.backbone.get('init_cfg') is None
    assert cfg.load_from is None
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert {'RandomFlip', 'RandomHalfBody'} <= set(steps)
    assert steps['RandomBBoxTransform'].scale_factor == (0.65, 1.35)
    assert steps['RandomBBoxTransform'].rotate_factor == 45
    assert steps['RandomBBoxTransform'].shift_prob == 0
    assert steps['TopdownAffine'].input_size == (192, 256)
    assert cfg.model.test_cfg.flip_test
    # The codec adds a quarter of a pixel towards the second highest neighbour.
    assert cfg.model.head.decoder.type == 'MSRAHeatmap'
    assert not cfg.model.head.decoder.get('unbiased', False)
    assert cfg.val_dataloader.dataset.bbox_file.endswith(
        'COCO_val2017_detections_AP_H_56_person.json'
    )
    width = 0.5 if 'x05' in path.stem else 1.0
    assert cfg.model.backbone.get('widen_factor', 1.0) == width


@pytest.mark.parametrize('path', PUBLISHED, ids=_short)
def test_only_the_activations_differ_from_the_static_twin(path):
    cfg = _load(path)
    backbone = re.sub('-(relu|dyrelu.)$', '', _short(path).partition('_irhead')[0])
    mixed = 'mobilenetv3' in backbone  # static: ReLU and h-swish
    name = f'{backbone}_irhead-relu' if mixed else f'{backbone}-relu_irhead-relu'
    twin = _load(ROOT / f'configs/dyrelu/td-hm_{name}_8xb64-210e_coco-256x192.py')
    for part in ('backbone', 'head'):
        cfg.model[part].pop('act_cfg', None)
        twin.model[part].pop('act_cfg', None)
    del cfg._cfg_dict['work_dir'], twin._cfg_dict['work_dir']
    assert cfg._cfg_dict == twin._cfg_dict


def test_the_rest_is_the_baseline_of_mmpose():
    path = ROOT / 'configs/dyrelu/td-hm_mobilenetv2-relu_irhead-relu_8xb64-210e_coco-256x192.py'
    cfg = _load(path)
    base = Config.fromfile(
        get_installed_path('mmpose') + '/.mim/configs/body_2d_keypoint/topdown_heatmap/coco/'
        'td-hm_mobilenetv2_8xb64-210e_coco-256x192.py'
    )
    assert cfg.model.backbone.out_indices == (7,)
    for pipeline in (cfg.train_dataloader.dataset.pipeline, base.train_dataloader.dataset.pipeline):
        pipeline[4] = dict(type='RandomBBoxTransform')
    base.optim_wrapper.optimizer.lr = 0.001
    keys = (
        'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator',
        'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr',
    )  # fmt: skip
    for key in keys:
        assert _without_scope(cfg[key]) == _without_scope(base[key]), key
    for key in ('data_preprocessor', 'test_cfg'):
        assert _without_scope(cfg.model[key]) == _without_scope(base.model[key]), key


def test_readme_and_metafile_give_the_tables():
    assert sorted(map(_short, PUBLISHED)) == sorted({*TABLE10, *COMBINATIONS})
    readme = (ROOT / 'configs/dyrelu/README.md').read_text().splitlines()
    models = yaml.safe_load((ROOT / 'configs/dyrelu/metafile.yml').read_text())['Models']
    listed = {model['Name']: model for model in models}
    for path in PUBLISHED:
        name = _short(path)
        metrics = listed[path.stem]['Results'][0]['Metrics']
        if name in TABLE10:
            row = next(line for line in readme if f'(./{path.name})' in line)
            assert [f'{v:.1f}' for v in TABLE10[name]] == [c.strip() for c in row.split('|')[-7:-1]]
            assert list(metrics.values()) == list(TABLE10[name])
        if name in COMBINATIONS:
            link = f'[{COMBINATIONS[name]:.1f}](./{path.name})'
            assert sum(link in line for line in readme) == 1
            assert metrics['AP'] == COMBINATIONS[name]


def test_demo_is_a_row_of_table_10_made_small():
    for path, kind in zip(DEMO, ('DyReLUC', 'ReLU'), strict=True):
        cfg = _load(path)
        assert cfg.model.backbone.type == 'mmact.MobileNetV2'
        assert cfg.model.backbone.widen_factor == 0.5
        assert cfg.model.backbone.act_cfg == cfg.model.head.act_cfg == dict(type=kind)
        head = MODELS.build(cfg.model.head)
        backbone = MODELS.build(cfg.model.backbone)
        width, height = cfg.codec.input_size
        maps = head(backbone(torch.randn(2, 3, height, width)))
        assert maps.shape == (2, 17, *reversed(cfg.codec.heatmap_size))
