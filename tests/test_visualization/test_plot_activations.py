# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""tools/analysis_tools/plot_activations.py."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

import mmact

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/plot_activations.py'
MODULE = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset


@MODELS.register_module(force=True)
class PlotModel(BaseModel):
    def __init__(self, act_cfg):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.SyncBatchNorm(8), MODELS.build(act_cfg))
        self.head = nn.Sequential(nn.Linear(8, 4), MODELS.build(act_cfg))

    def forward(self, inputs, mode):
        assert mode == 'predict' and not self.training
        return list(self.head(self.backbone(inputs).mean((2, 3))))


@DATASETS.register_module(force=True)
class PlotDataset(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(inputs=torch.full((1, 6, 6), index / 6 - 1))
"""
CONFIG = """
custom_imports = dict(imports=['plot_module', 'mmact'])
default_scope = 'mmengine'
model = dict(type='PlotModel', act_cfg=dict(type='PWLU'))
val_dataloader = dict(
    batch_size=2,
    dataset=dict(type='PlotDataset'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
"""


def save(config, act_cfg, path):
    """Saves a checkpoint of the model with another activation, as MMEngine's runner does."""
    config = copy.deepcopy(config)
    config.model.act_cfg = act_cfg
    state_dict = MODELS.build(config.model).state_dict()
    torch.save({'meta': {'cfg': config.pretty_text}, 'state_dict': state_dict}, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with config.py, a checkpoint.pth that holds the config, and plain.pth."""
    (tmp_path / 'plot_module.py').write_text(MODULE)
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    config = Config.fromfile(tmp_path / 'config.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    state_dict = model.state_dict()
    torch.save(
        {'meta': {'cfg': config.pretty_text}, 'state_dict': state_dict}, tmp_path / 'checkpoint.pth'
    )
    torch.save(state_dict, tmp_path / 'plain.pth')
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'relu.pth')
    for name, kind in (('dynamic', 'DyReLUB'), ('fixed', 'ReLU')):
        save(config, dict(type=kind), tmp_path / f'{name}.pth')
    return tmp_path


@pytest.fixture
def run(run_tool):
    """Runs the tool in this process: (exit status, standard output, standard error)."""
    return run_tool(TOOL)


@pytest.mark.parametrize('name', ['checkpoint', 'plain'])
def test_parameters_are_enough_for_functions(folder, run, name):
    status, out, _ = run(folder / f'{name}.pth', '--out', folder / 'out')
    assert status == 0
    assert out.split() == [str(folder / f'out/{name}_functions.png')]
    with Image.open(out.strip()) as image:
        assert image.width > 500


def test_data_gives_the_alignment(folder, run):
    status, out, err = run(folder / 'checkpoint.pth', '--data', 3)
    assert status == 0, err
    written = {Path(line).name for line in out.splitlines() if line.endswith('.png')}
    assert written == {'checkpoint_functions.png', 'checkpoint_alignment.png'}
    for name in written:
        with Image.open(folder / name) as image:
            assert image.width > 500


def test_data_of_another_config(folder, run):
    options = ('--config', folder / 'config.py', '--cfg-options', 'val_dataloader.batch_size=5')
    assert run(folder / 'plain.pth', '--data', 1, *options, '--layers', 'head')[0] == 0
    assert (folder / 'plain_alignment.png').exists()


DRAWN = [r.name for r in mmact.list_activations() if getattr(r.cls, 'elementwise', False)]


@pytest.mark.parametrize('name', DRAWN)
def test_every_activation_is_drawn(folder, run, name):
    """With and without data; the parameters are those of the checkpoint."""
    config = Config.fromfile(folder / 'config.py')
    save(config, dict(type=name), folder / 'act.pth')
    data = ('--data', 1) if name in ('PAU', 'SReLU') else ()
    status, out, err = run(folder / 'act.pth', *data)
    assert status == 0, err
    assert out.split()[-1] == str(folder / 'act_functions.png')
    with Image.open(out.split()[-1]) as image:
        assert image.width > 500


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.pth'], 'checkpoint missing.pth does not exist'),
        (['relu.pth'], 'relu.pth holds no PWLU, and no config'),
        (['dynamic.pth'], 'dynamic.pth has DyReLUB, whose output depends on more than one number'),
        (['fixed.pth'], 'fixed.pth is of a model without an activation of mmact'),
        (
            ['plain.pth', '--layers', 'neck'],
            'no layer matches --layers neck; there are',
        ),
        (['plain.pth', '--data', '1'], 'give --config'),
        (['plain.pth', '--data', '-1'], '--data must be at least 0, got -1'),
        (['plain.pth', '--max-layers', '0'], '--max-layers must be at least 1, got 0'),
        (
            ['checkpoint.pth', '--data', '1', '--cfg-options', 'val_dataloader=None'],
            'needs a val_dataloader',
        ),
    ],
)
def test_errors_are_one_line(folder, run, monkeypatch, args, message):
    monkeypatch.chdir(folder)
    status, out, err = run(*args)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert '.png' not in out


def test_as_a_program(folder):
    result = subprocess.run(
        [sys.executable, str(TOOL), 'plain.pth', '--layers', 'backbone'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (folder / 'plain_functions.png').exists()
