# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure every candidate; whether it is quick is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from marks import slow

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
    assert {'nn.ReLU', 'copy', 'PWLU', 'DiTAC channel-wise', 'DyReLUC'} <= set(rows)
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
    assert head == '| model | fused | inference, ms | x original | paper (P100), ms |'
    assert [row.split(' | ')[-1] for row in rows] == ['9 ± 4 |', '16 ± 1 |']
