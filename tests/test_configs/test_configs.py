# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every config trains and evaluates, and says what its paper says."""

import argparse
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

pytest.importorskip('mmdet')

from mmdet.structures import DetDataSample
from mmengine.registry import MODELS

from mmact.activations import PWLU, FReLU, unresolved
from mmact.apis import build_runner, load_config, prepare_training
from mmact.datasets.mini import make_coco

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if p.parent.name != '_base_')
TABLE3 = [p for p in CONFIGS if p.parent.name == 'pwlu']
ACTIVATION = dict(relu=nn.ReLU, swish=nn.SiLU, frelu=FReLU, pwlu=PWLU)


def _activation(path: Path) -> type[nn.Module]:
    return next(
        cls for name, cls in ACTIVATION.items() if name in path.stem.replace('-', '_').split('_')
    )


@pytest.fixture(scope='module')
def mini_coco(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp('mini_coco')
    return f'{make_coco(root, num_train=4, num_val=2, size=(64, 64), quiet=True)}/'


def _load(path: Path, work_dir: Path, options: dict):
    return load_config(
        argparse.Namespace(
            config=str(path),
            work_dir=str(work_dir),
            cfg_options=options,
            launcher='none',
            local_rank=0,
        )
    )


def _small(path: Path, mini_coco: str, work_dir: Path) -> dict:
    """The --cfg-options that make a detector quick, as a dict."""
    cfg = _load(path, work_dir, {})
    expansion = 4 if cfg.model.backbone.depth >= 50 else 1
    channels = dict(in_channels=16, feat_channels=16)
    options = {
        'model.backbone.base_channels': 4,
        'model.neck.in_channels': [4 * expansion * 2**i for i in range(4)],
        'model.neck.out_channels': 16,
        'val_evaluator.ann_file': f'{mini_coco}annotations/instances_val2017.json',
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
    }
    if cfg.model.type == 'MaskRCNN':
        options |= {f'model.rpn_head.{key}': value for key, value in channels.items()}
        for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
            options[f'model.roi_head.{extractor}.out_channels'] = 16
        for head in ('bbox_head', 'mask_head'):
            options[f'model.roi_head.{head}.in_channels'] = 16
            options[f'model.roi_head.{head}.conv_out_channels'] = 16
        options |= {
            'model.train_cfg.rcnn.sampler.num': 16,
            'model.test_cfg.rcnn.score_thr': 0.0,
            'model.test_cfg.rcnn.max_per_img': 5,
        }
    else:
        options |= {f'model.bbox_head.{key}': value for key, value in channels.items()}
        options |= {'model.test_cfg.score_thr': 0.0, 'model.test_cfg.max_per_img': 5}
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {
            f'{loader}.dataset.data_root': mini_coco,
            f'{loader}.num_workers': 0,
            f'{loader}.persistent_workers': False,
        }
        pipeline = cfg[loader].dataset.pipeline
        resize = next(i for i, step in enumerate(pipeline) if step.type == 'Resize')
        options[f'{loader}.dataset.pipeline.{resize}.scale'] = (64, 64)
    options['train_dataloader.batch_size'] = 2
    for index, hook in enumerate(cfg.get('custom_hooks', [])):
        key = 'phase1' if hook.type == 'PWLURealignHook' else 'interval'
        options[f'custom_hooks.{index}.{key}'] = 1
    return options


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_two_iterations_and_an_evaluation(path, mini_coco, tmp_path):
    runner = build_runner(_load(path, tmp_path, _small(path, mini_coco, tmp_path)))
    prepare_training(runner)
    backbone = runner.model.backbone
    acts = [m for m in backbone.modules() if isinstance(m, tuple(ACTIVATION.values()))]
    sites = {18: 1 + 8 * 2, 50: 1 + 16 * 3}[backbone.depth]
    assert [type(m) for m in acts] == [_activation(path)] * sites
    groups = runner.optim_wrapper.optimizer.param_groups
    optimized = [id(p) for group in groups for p in group['params']]
    assert len(optimized) == len(set(optimized)) == len(list(runner.model.parameters()))
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 2
    # Most of them, because at random a box or mask branch may get no sample.
    moved = [n for n, p in runner.model.named_parameters() if not torch.equal(before[n], p)]
    assert len(moved) > 0.8 * len(before)
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert all(m.phase == 'learn' for m in acts if isinstance(m, PWLU))
    metrics = runner.message_hub.log_scalars
    assert 0 <= metrics['val/coco/bbox_mAP'].current() <= 1
    assert ('val/coco/segm_mAP' in metrics) == ('mask-rcnn' in path.name)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_parts_fit_at_full_size(path, tmp_path):
    cfg = _load(path, tmp_path, {})
    if cfg.model.type == 'MaskRCNN':
        cfg.merge_from_dict({'model.test_cfg.rpn.max_per_img': 4})
    model = MODELS.build(cfg.model).eval()
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1, 1)))
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 64), [sample], mode='tensor')
    assert outputs
    assert not unresolved(model)


@pytest.mark.parametrize('path', TABLE3, ids=lambda p: p.stem)
def test_settings_of_the_paper(path, tmp_path):
    cfg = _load(path, tmp_path, {})
    backbone = cfg.model.backbone
    assert backbone.depth == 50
    assert backbone.get('init_cfg') is None
    assert backbone.frozen_stages == -1
    assert not backbone.norm_eval
    assert cfg.sync_bn == 'torch'
    assert cfg.train_dataloader.batch_size * 8 == 16
    resize = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'Resize']
    assert min(resize[0].scale) == 800
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        'SGD',
        0.02,
        0.9,
        0.0001,
    )
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 270000)
    steps = cfg.param_scheduler[1]
    assert (steps.by_epoch, steps.milestones, steps.gamma) == (False, [210000, 250000], 0.1)
    hooks = cfg.get('custom_hooks', [])
    if _activation(path) is PWLU:
        assert backbone.act_cfg.num_intervals == 16
        assert backbone.act_cfg.get('mode', 'channel') == 'channel'
        assert [(h.type, h.phase1, h.by_epoch) for h in hooks] == [
            ('PWLURealignHook', 36645, False)
        ]
    else:
        assert not hooks


def test_metafile_and_readme_list_every_config():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    listed = {}
    for name in index:
        for model in yaml.safe_load((ROOT / name).read_text())['Models']:
            listed[model['Name']] = model
            assert Path(model['Config']).stem == model['Name']
            assert 'not reproduced by mmact' in model['Metadata']['Results Reported By']
    assert sorted(listed) == sorted(p.stem for p in TABLE3)
    assert all((ROOT / model['Config']).is_file() for model in listed.values())
    readme = (ROOT / 'configs/pwlu/README.md').read_text()
    for path in TABLE3:
        row = next(line for line in readme.splitlines() if path.name in line)
        for result in listed[path.stem]['Results']:
            for value in result['Metrics'].values():
                assert f'{value:g}' in row
