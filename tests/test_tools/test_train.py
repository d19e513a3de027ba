# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""tools/train.py and tools/test.py: what they do, and the one line they say when they cannot."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from marks import every_second, slow
from test_ops.utils import run_python

pytest.importorskip('mmdet')


ROOT = Path(__file__).resolve().parents[2]
DEMO = str(ROOT / 'configs/demo/mask-rcnn_pwlu_mini-coco.py')
RETINANET = str(ROOT / 'configs/pwlu/retinanet_r50-scratch-relu_fpn_syncbn_270k_coco.py')


@pytest.mark.parametrize(
    ('option', 'expected'),
    every_second(
        [
            (
                'model.backbone.act_cfg.type=PWLUU',
                "'PWLUU' is not a known type (config key model.backbone.act_cfg.type). "
                'Did you mean PWLU',
            ),
            ('model.backbone.act_cfg.type=pwlu', 'Did you mean PWLU'),
            ('model.backbone.act_cfg.type=Xyz', 'Is its module in custom_imports?'),
            (
                'model.backbone.act_cfg.num_interval=8',
                "PWLU: got an unexpected keyword argument 'num_interval'; it takes num_channels, ",
            ),
            (
                'model.backbone.act_cfg.num_interval=8',
                '(config key model.backbone.act_cfg.num_interval). Did you mean num_intervals?',
            ),
            ('model.backbone.act_cfg.num_intervals=0', 'num_intervals must be a positive integer'),
            ('model.backbone.type=mmact.ResNett', 'Did you mean mmact.ResNet'),
            ('model.backbone.depths=18', '(config key model.backbone.depths). Did you mean depth?'),
            ('model.type=MaskRCN', 'Did you mean MaskRCNN'),
            ('custom_hooks.0.type=PWLURealign', 'Did you mean PWLURealignHook'),
            ('custom_hooks.0.phase=4', 'Did you mean phase1?'),
            ('param_scheduler.0.type=LinearLRR', 'Did you mean LinearLR'),
            ('optim_wrapper.optimizer.type=AdamWW', 'Did you mean AdamW'),
            (
                'optim_wrapper.constructor=ActivationParam',
                'Did you mean ActivationParamConstructor',
            ),
            ('train_dataloader.dataset.type=CocoDatset', 'Did you mean CocoDataset'),
            ('train_dataloader.dataset.pipeline.2.type=Resise', 'Did you mean Resize'),
            ('load_from=nothing.pth', 'checkpoint nothing.pth does not exist'),
            ('default_scope=mmdett', "that is not installed: No module named 'mmdett'"),
        ]
    ),
)
def test_wrong_config_is_one_line(run, small, tmp_path, option, expected):
    status, line = run('train', DEMO, '--work-dir', tmp_path, '--cfg-options', *small, option)
    assert status == 2
    assert line.startswith('error: ')
    assert expected in line
    assert not list(tmp_path.glob('*.pth'))


def test_missing_data_names_path_keys_and_remedy(run, small, tmp_path, mini_coco):
    status, line = run('train', DEMO, '--work-dir', tmp_path)
    assert status == 2
    assert line.startswith('error: data/mini_coco/annotations/instances_train2017.json does not')
    assert 'train_dataloader.dataset.data_root=DIR' in line
    assert 'val_evaluator.ann_file=DIR/annotations/instances_val2017.json' in line
    assert 'make_mini.py' in line
    root = f'val_dataloader.dataset.data_root={tmp_path}/'
    status, line = run('train', DEMO, '--work-dir', tmp_path, '--cfg-options', *small, root)
    assert status == 2
    assert f'{tmp_path}/annotations/instances_val2017.json does not exist' in line
    # Annotations without pictures would show only when a worker reads the first one.
    shutil.copytree(f'{mini_coco}annotations', tmp_path / 'annotations')
    root = f'train_dataloader.dataset.data_root={tmp_path}/'
    status, line = run('train', DEMO, '--work-dir', tmp_path, '--cfg-options', *small, root)
    assert status == 2
    assert f'{tmp_path}/train2017/ does not exist' in line


def test_wrong_command_lines(run, small, tmp_path):
    status, line = run('train', DEMO.replace('mini-coco', 'minicoco'))
    assert status == 2
    assert 'mask-rcnn_pwlu_mini-coco.py?' in line
    flags = ['--work-dir', tmp_path, '--cfg-options', *small]
    assert run('train', DEMO, '--resume', 'no.pth', *flags) == (
        2,
        'error: checkpoint no.pth does not exist',
    )
    assert run('test', DEMO, 'no.pth', *flags) == (2, 'error: checkpoint no.pth does not exist')
    status, line = run('train', DEMO, '--auto-scale-lr', *flags, 'auto_scale_lr=None')
    assert status == 2
    assert 'base_batch_size' in line
    status, line = run('test', DEMO, 'no.pth', '--tta', *flags)
    assert (status, 'tta_model' in line) == (2, True)
    status, line = run('test', DEMO, 'no.pth', '--out', 'predictions.json', *flags)
    assert (status, '.pkl' in line) == (2, True)
    broken = tmp_path / 'broken.py'
    broken.write_text('model = dict(\n')
    status, line = run('train', broken)
    assert status == 2
    assert f'config {broken}' in line


def test_traceback_on_demand(run, monkeypatch):
    monkeypatch.setenv('MMACT_TRACEBACK', '1')
    with pytest.raises(Exception, match='does not exist'):
        run('train', 'no.py')


def test_unresolved_activation(run, small, tmp_path, monkeypatch):
    (tmp_path / 'odd_backbone.py').write_text(
        'from mmengine.model import BaseModule\n'
        'from mmact.activations import PWLU\n'
        'from mmact.models.backbones.resnet import ResNet\n'
        'from mmengine.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class OddBackbone(BaseModule):\n'
        '    def __init__(self, **kwargs):\n'
        '        super().__init__()\n'
        '        self.first = PWLU()\n'
        '        self.rest = ResNet(**kwargs)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'odd.py'
    config.write_text(
        f"_base_ = '{DEMO}'\n"
        "custom_imports = dict(imports=['mmact', 'odd_backbone'])\n"
        "model = dict(backbone=dict(type='OddBackbone'))\n"
    )
    status, line = run('train', config, '--work-dir', tmp_path, '--cfg-options', *small)
    assert status == 2
    assert line.startswith('error: 1 activations do not know their number of channels')
    assert "PWLU at 'backbone.first'" in line


@pytest.mark.parametrize('act', ['PWLU', 'DyReLUB'])
def test_a_wrong_guess_shows_before_training(run, small, tmp_path, monkeypatch, act):
    """One activation for two layers of different widths cannot be right for both."""
    (tmp_path / 'shared_backbone.py').write_text(
        'import torch\n'
        'from mmact.models.backbones.resnet import ResNet\n'
        'from mmengine.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class SharedBackbone(ResNet):\n'
        '    def __init__(self, act_cfg, **kwargs):\n'
        "        super().__init__(act_cfg=dict(type='ReLU'), **kwargs)\n"
        '        self.first = torch.nn.Conv2d(3, 4, 1)\n'
        '        self.second = torch.nn.Conv2d(4, 3, 1)\n'
        '        self.act = MODELS.build(act_cfg)\n'
        '    def forward(self, x):\n'
        '        return super().forward(self.act(self.second(self.act(self.first(x)))))\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'shared.py'
    config.write_text(
        f"_base_ = '{DEMO}'\n"
        "custom_imports = dict(imports=['mmact', 'shared_backbone'])\n"
        'custom_hooks = []\n'
        "model = dict(backbone=dict(type='SharedBackbone', act_cfg=dict(_delete_=True, "
        f'type={act!r})))\n'
    )
    options = [option for option in small if not option.startswith('custom_hooks')]
    status, line = run('train', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert status == 2
    assert line.startswith(f"error: {act} at 'backbone.act' of MaskRCNN")
    assert 'Pass num_channels' in line or 'pass num_channels' in line
    assert ('num_groups=1' in line) == (act == 'PWLU')
    assert not list(tmp_path.glob('*/vis_data/*.json'))  # nothing was trained


def test_hooks_are_asked_whether_they_can_work(run, small, tmp_path, monkeypatch):
    (tmp_path / 'picky_hook.py').write_text(
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class PickyHook(Hook):\n'
        '    def check(self, runner):\n'
        '        raise ValueError(f"no: {len(runner.optim_wrapper.param_groups)} groups")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'picky.py'
    config.write_text(
        f"_base_ = '{DEMO}'\n"
        "custom_imports = dict(imports=['mmact', 'picky_hook'])\n"
        "custom_hooks = [dict(type='PickyHook')]\n"
    )
    options = [option for option in small if not option.startswith('custom_hooks')]
    status, line = run('train', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert status == 2
    assert line.startswith('error: ValueError: ')
    assert line.endswith(' groups (MMACT_TRACEBACK=1 shows where)')


def test_train_resume_and_test(run, small, tmp_path):
    work_dir = tmp_path / 'work'
    flags = ['--work-dir', work_dir, '--cfg-options', *small]
    # Nothing to resume yet: it says so and starts.
    assert run('train', DEMO, '--resume', '--auto-scale-lr', *flags)[0] == 0
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'phase I,' in log
    assert 'phase II after 2 iterations' in log
    assert 'Iter(train) [4/4]' in log
    phases = [
        {int(v) for k, v in _state(work_dir, i).items() if k.endswith('phase_id')} for i in (2, 4)
    ]
    assert [len(p) for p in phases] == [1, 1]
    assert phases[0] != phases[1]

    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    (work_dir / 'iter_4.pth').unlink()
    assert run('train', DEMO, '--resume', *flags)[0] == 0
    log = max(work_dir.glob('*/*.log')).read_text()
    assert 'iter: 2' in log
    assert 'Iter(train) [1/4]' not in log
    assert 'phase II after 2 iterations' in log
    assert {int(v) for k, v in _state(work_dir, 4).items() if k.endswith('phase_id')} == phases[1]

    pictures = tmp_path / 'pictures'
    out = tmp_path / 'predictions.pkl'
    test_dir = tmp_path / 'test'
    status, _ = run(
        'test',
        DEMO,
        work_dir / 'iter_4.pth',
        '--work-dir',
        test_dir,
        '--out',
        out,
        '--show-dir',
        pictures,
        '--cfg-options',
        *small,
    )
    assert status == 0
    assert len(list(pictures.glob('*.jpg'))) == 3
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 3
    assert {'bboxes', 'scores', 'labels', 'masks'} <= set(predictions[0]['pred_instances'])
    metrics = json.loads(next(test_dir.glob('*/*.json')).read_text().splitlines()[-1])
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)


def _state(work_dir: Path, iterations: int) -> dict:
    checkpoint = torch.load(work_dir / f'iter_{iterations}.pth', weights_only=False)
    return checkpoint['state_dict']


@slow
def test_test_time_augmentation(run, mini_coco, tmp_path):
    config = tmp_path / 'tta.py'
    config.write_text(
        f"_base_ = '{RETINANET}'\n"
        'model = dict(\n'
        '    backbone=dict(depth=18, base_channels=4),\n'
        '    neck=dict(in_channels=[4, 8, 16, 32], out_channels=16),\n'
        '    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),\n'
        '    test_cfg=dict(score_thr=0.0, max_per_img=3))\n'
        'tta_pipeline = _base_.tta_pipeline\n'
        'for size, resize in zip((32, 48, 64), tta_pipeline[1]["transforms"][0]):\n'
        '    resize["scale"] = (size, size)\n'
        f'test_dataloader = dict(num_workers=0, persistent_workers=False,\n'
        f"                       dataset=dict(data_root='{mini_coco}'))\n"
        f"test_evaluator = dict(ann_file='{mini_coco}annotations/instances_val2017.json')\n"
    )
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(config).model)
    checkpoint = tmp_path / 'random.pth'
    torch.save(model.state_dict(), checkpoint)
    scores = []
    for tta in ([], ['--tta']):
        out = tmp_path / 'predictions.pkl'
        flags = ['--work-dir', tmp_path / 'work', '--out', out, *tta]
        assert run('test', config, checkpoint, *flags)[0] == 0
        scores.append([p['pred_instances']['scores'] for p in pickle.loads(out.read_bytes())])
    assert any(not torch.equal(a, b) for a, b in zip(*scores, strict=True))


@slow
def test_projects_are_found_from_any_folder(tmp_path):
    """A clone's projects/, which custom_imports names, where only mmact itself can be imported."""
    config = ROOT / 'configs/demo/unet_arelu_mini-lgg.py'
    script = (
        'import mmact, os, runpy, sys\n'
        f'os.chdir({str(tmp_path)!r})\n'
        f'sys.path[:] = [p for p in sys.path if p not in ("", {str(ROOT)!r})]\n'
        f'sys.argv = ["train.py", {str(config)!r}]\n'
        f'runpy.run_path({str(ROOT / "tools/train.py")!r}, run_name="__main__")'
    )
    result = run_python(script)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: data/mini_lgg/ does not exist')


def test_missing_project_is_one_sentence(tmp_path):
    """The config of a wheel, where there are no projects."""
    script = (
        'import runpy, sys, mmact.cli\n'
        'mmact.cli.__file__ = "/nowhere/mmact/cli.py"\n'
        f'sys.path[:] = [p for p in sys.path if p not in ("", {str(ROOT)!r})]\n'
        f'sys.argv = ["train.py", {str(ROOT / "configs/demo/unet_arelu_mini-lgg.py")!r}]\n'
        f'runpy.run_path({str(ROOT / "tools/train.py")!r}, run_name="__main__")'
    )
    result = run_python(script)
    assert result.returncode == 2
    assert 'needs projects, which is not installed: run from a clone' in result.stderr
