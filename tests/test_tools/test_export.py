# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""tools/deployment/export.py: the graphs give what the model gives, in every precision."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from marks import slow

pytest.importorskip('mmdet')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

from projects.mini_datasets import make_coco

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/deployment/export.py'
ALL = ('fp32', 'fp16', 'int8')


@pytest.fixture
def export(tmp_path, monkeypatch, capsys):
    """Runs the tool on a converted RetinaNet that is small; returns what it printed."""
    data = make_coco(tmp_path / 'coco', num_train=2, num_val=2, size=(64, 64), quiet=True)
    config = tmp_path / 'retinanet.py'
    config.write_text(f"""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(
    type='mmact.Converted',
    original='RetinaNet',
    act_cfg=dict(type='PDELU'),
    example=(1, 3, 64, 64),
    backbone=dict(base_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1),
                  out_indices=(0, 1), init_cfg=None),
    neck=dict(in_channels=[8, 16], out_channels=16, num_outs=5),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='{data}/', ann_file='annotations/instances_val2017.json'),
)
test_evaluator = dict(ann_file='{data}/annotations/instances_val2017.json')
""")

    def run(*arguments, config=config):
        options = [str(config), 'none', '--out', str(tmp_path / 'out')]
        options += ['--shape', '64', '64', '--seconds', '0']
        options += ['--work-dir', str(tmp_path / 'work'), *arguments]
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *options])
        torch.manual_seed(0)
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out, tmp_path / 'out'

    monkeypatch.setenv('MMACT_TRACEBACK', '1')
    return run


@pytest.mark.parametrize('precisions', [('fp32',), pytest.param(ALL, marks=slow)], ids=len)
@pytest.mark.filterwarnings('ignore')
def test_onnx(export, precisions):
    """PDELUs and BatchNorms are gone; batch and size are free; files of all precisions run."""
    out, folder = export('--precision', *precisions, '--images', '2')
    assert '10 BatchNorms folded, 11 activations turned into PWLUs' in out
    columns = re.search(r'^dense \|(.*)$', out, re.MULTILINE)[1].split(' | ')
    assert columns[-1].strip() == 'batch and size'
    assert float(columns[3]) < 1e-4
    assert (folder / 'dense.onnx').is_file()
    if precisions == ALL:
        sizes = {p.stem: p.stat().st_size for p in folder.glob('*.onnx')}
        assert sizes['dense_int8'] < sizes['dense_fp16'] < sizes['dense']
        assert tuple(re.findall(r'^(fp32|fp16|int8) \|', out, re.MULTILINE)) == ALL


@pytest.mark.filterwarnings('ignore')
def test_a_graph_of_one_size(tmp_path):
    """Pooling to fixed sizes is traced for one size; at another the graph runs and is wrong."""
    tool = runpy.run_path(str(TOOL))
    part = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8, stride=8), torch.nn.AdaptiveAvgPool2d(6))
    part = torch.nn.Sequential(part, tool['Flat'](torch.nn.Identity())).eval()
    x, other = (torch.randn(2, 3, height, 512) for height in (256, 320))
    tool['to_onnx'](part, x, tmp_path / 'a.onnx')
    run = tool['session'](tmp_path / 'a.onnx')
    assert tool['right'](run, part, x)
    assert not tool['right'](run, part, other)


@slow
@pytest.mark.filterwarnings('ignore')
def test_pyramid_pooling(export):
    pytest.importorskip('mmseg')
    config = ROOT / 'configs/demo/pspnet_relu_mini-cityscapes.py'
    out, _ = export('--plain', '--shape', '256', '512', config=config)
    columns = re.search(r'^dense \|(.*)$', out, re.MULTILINE)[1].split(' | ')
    assert columns[-1].strip() == 'batch'
    assert float(columns[3]) < 1e-4


@slow
@pytest.mark.filterwarnings('ignore')
def test_torch_export(export):
    out, folder = export('--to', 'torch-export', '--plain')
    columns = re.search(r'^dense \|(.*)$', out, re.MULTILINE)[1].split(' | ')
    assert float(columns[3]) < 1e-5
    assert (folder / 'dense.pt2').is_file()
