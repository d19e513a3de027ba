# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure every candidate; whether it is quick is not asked here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from marks import slow
from torch import nn

from mmact.activations import PWLU, Activation, list_activations

ROOT = Path(__file__).resolve().parents[2]


@slow
def test_every_candidate_is_measured(tmp_path):
    out = tmp_path / 'benchmark.json'
    command = [sys.executable, 'tools/benchmark.py', '--shape', '2', '8', '8', '8', '--repeat', '3']
    command += ['--dtype', 'float32', '--format', 'contiguous', '--out', str(out)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (measured,) = json.loads(out.read_text())['results']
    rows = {row['name']: row for row in measured['rows']}
    own = {r.cls.__name__ for r in list_activations() if issubclass(r.cls, Activation)}
    assert {'nn.ReLU', 'copy', 'DiTAC channel-wise', *own - {'Maxout'}} <= set(rows)
    assert rows['nn.ReLU']['forward']['ratio'] == 1
    assert all(row['forward+backward']['ms'] > 0 for row in rows.values())


@slow
def test_models_are_measured(tmp_path):
    pytest.importorskip('torchvision')
    out = tmp_path / 'models.jsonl'
    command = [sys.executable, 'tools/benchmark_models.py', '--model', 'resnet18', '--repeat', '1']
    command += ['--act', 'SiLU', 'PWLU', 'PWLU-separate', '--shape', '2', '3', '64', '64']
    result = subprocess.run(
        [*command, '--out', str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    rows = {row['name']: row for row in json.loads(out.read_text())['rows']}
    assert [row['fused'] for row in rows.values()] == [0, 0, 17, 0]
    assert rows['original']['iteration']['ratio'] == 1
    assert all(row['inference']['ms'] > 0 for row in rows.values())
    assert rows['PWLU']['kept'] < rows['PWLU-separate']['kept']
    assert all(row['peak'] > row['kept'] for row in rows.values())


@slow
def test_an_original_may_have_dropout_in_place_behind_an_activation(tmp_path):
    pytest.importorskip('torchvision')
    command = [sys.executable, 'tools/benchmark_models.py', '--model', 'mobilenet_v3_small']
    command += ['--base', 'ReLU', '--act', 'PWLU', '--shape', '2', '3', '32', '32']
    result = subprocess.run(
        [*command, '--repeat', '1'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count('\n| PWLU | ') == 1


@slow
def test_inference_alone_is_set_beside_the_papers(tmp_path):
    pytest.importorskip('torchvision')
    out = tmp_path / 'models.jsonl'
    command = [sys.executable, 'tools/benchmark_models.py', '--model', 'mobilenet_v3_small']
    command += ['--act', 'DiTAC', '--shape', '1', '3', '64', '64', '--inference', '--repeat', '1']
    result = subprocess.run(
        [*command, '--out', str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    original, ditac = json.loads(out.read_text())['rows']
    assert set(original) == {'name', 'fused', 'inference'}
    assert original['inference']['ratio'] == 1
    assert ditac['inference']['ms'] > 0
    head, _, *rows = [line for line in result.stdout.splitlines() if line.startswith('|')]
    assert head == '| model | fused | inference, ms | x original | in the paper |'
    assert [row.split(' | ')[-1] for row in rows] == ['1.00 |', '1.78 |']


@pytest.fixture
def tool(monkeypatch):
    """tools/benchmark_models.py; models of torchvision are a tiny one."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    tool = importlib.import_module('benchmark_models')
    build = tool.build
    monkeypatch.setattr(
        tool, 'build', lambda name, shape: build(name, shape) if name in tool.CONFIGS else tiny()
    )
    return tool


def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(True), nn.Conv2d(8, 4, 3), nn.ReLU(True)
    )


@pytest.fixture
def run(tool, monkeypatch, tmp_path, capsys):
    """Runs the tool in this process: its rows and lines of its table."""

    def call(model, *arguments):
        out = tmp_path / 'models.jsonl'
        command = ['--model', model, *arguments, '--repeat', '1', '--threads', '1']
        monkeypatch.setattr(sys, 'argv', ['benchmark_models.py', *command, '--out', str(out)])
        tool.main()
        rows = {row['name']: row for row in json.loads(out.read_text())['rows']}
        lines = capsys.readouterr().out.splitlines()
        return rows, [line for line in lines if line.startswith('|')]

    return call


SMALL = ('--shape', '2', '3', '12', '12')


def is_measured(row):
    return all(row[kind]['ms'] > 0 for kind in ('iteration', 'inference'))


def test_the_statistics_phase_is_measured(run, tool):
    rows, _ = run('resnet18', '--act', 'PWLU', 'PWLU-phase1', *SMALL)
    assert [row['fused'] for row in rows.values()] == [0, 1, 1]
    assert all(map(is_measured, rows.values()))
    model, _ = tool.with_activation(tiny(), 'PWLU-phase1', (2, 3, 12, 12))
    phases = [m.phase for m in model.modules() if isinstance(m, PWLU)]
    assert phases == ['collect', 'collect']


def test_classes_of_other_libraries_take_the_same_places(run, tool):
    rows, _ = run('resnet18', '--act', 'torch.nn:Mish', *SMALL)
    assert is_measured(rows['torch.nn:Mish'])
    model, fused = tool.with_activation(tiny(), 'torch.nn:Mish', (2, 3, 12, 12))
    assert [type(m) for m in model[2::2]] == [nn.Mish, nn.Mish]
    assert fused == 0


@slow
def test_dyrelu_of_mmdetection_is_measured(run, tool):
    layers = pytest.importorskip('mmdet.models.layers')
    name = 'mmdet.models.layers:DyReLU'
    rows, _ = run('resnet18', '--act', name, *SMALL)
    assert is_measured(rows[name])
    model, _ = tool.with_activation(tiny(), name, (2, 3, 12, 12))
    found = [m.channels for m in model.modules() if isinstance(m, layers.DyReLU)]
    assert found == [8, 4]


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError('a view of | this size\nis not possible')


def test_candidates_that_do_not_run_are_lines_of_the_table(run):
    rows, lines = run('resnet18', '--act', 'nowhere:X', f'{__name__}:Broken', 'PWLU', *SMALL)
    assert is_measured(rows['PWLU'])
    assert rows['nowhere:X']['note'] == "ModuleNotFoundError: No module named 'nowhere'"
    assert 'RuntimeError: a view of \\| this size is not possible' in lines[4]
    with pytest.raises(SystemExit, match='nowhere:X: ModuleNotFoundError'):
        run('resnet18', '--base', 'nowhere:X', *SMALL)


@slow
@torch._inductor.config.patch({'cpp.vec_isa_ok': False, 'compile_threads': 1})
def test_compiled_models_are_measured(run):
    names = ['original-compiled', 'SiLU-compiled', 'PWLU-compiled']
    with torch._dynamo.config.patch(recompile_limit=8):  # which the tool changes
        rows, _ = run('resnet18', '--act', *names, *SMALL)
    assert [name for name in names if not is_measured(rows[name])] == []
    assert rows['PWLU-compiled']['fused'] == 0


def test_a_compilation_that_fails_is_a_line_of_the_table(run, monkeypatch):
    def fails(forward):
        def compiled(*args):
            raise torch._dynamo.exc.Unsupported('cannot trace this')

        return compiled

    monkeypatch.setattr(torch, 'compile', fails)
    with torch._dynamo.config.patch(recompile_limit=8):  # which the tool changes
        rows, _ = run('resnet18', '--act', 'PWLU', 'PWLU-compiled', *SMALL)
    assert is_measured(rows['PWLU'])
    assert 'cannot trace this' in rows['PWLU-compiled']['note']


def test_ratios_to_relu_are_set_beside_the_papers(run):
    rows, lines = run('resnet18', '--base', 'ReLU', '--act', 'SiLU', 'PWLU', *SMALL)
    assert list(rows) == ['ReLU', 'SiLU', 'PWLU']
    head, _, *cells = [line.split(' | ') for line in lines]
    places = [place for place, title in enumerate(head) if title == 'in the paper']
    assert [[row[place] for place in places] for row in cells] == [
        ['1.00', '1.00'],
        ['', '1.10'],
        ['1.20', '1.16'],
    ]


def test_ratios_are_drawn(run, tmp_path):
    image = pytest.importorskip('PIL.Image')
    path = tmp_path / 'ratios.png'
    run('resnet18', '--act', 'SiLU', 'nowhere:X', '--plot', str(path), *SMALL)
    width, height = image.open(path).size
    assert width > 1000 > height > 100


@pytest.mark.parametrize('candidate', ['DiTAC-phase1', 'PWLU-faster'])
def test_wrong_ways_are_refused(run, candidate, capsys):
    with pytest.raises(SystemExit):
        run('resnet18', '--act', candidate)
    assert f'{candidate}: there is no -' in capsys.readouterr().err


@slow
@pytest.mark.parametrize(
    ('model', 'batch', 'codebase'),
    [('retinanet', '1', 'mmdet'), ('pspnet', '2', 'mmseg'), ('td-hm', '1', 'mmpose')],
)
def test_whole_models_of_openmmlab_are_measured(run, model, batch, codebase):
    pytest.importorskip(codebase)
    rows, _ = run(model, '--act', 'PWLU', '--shape', batch, '3', '64', '64')
    assert is_measured(rows['PWLU'])
    assert rows['PWLU']['fused'] >= 49
