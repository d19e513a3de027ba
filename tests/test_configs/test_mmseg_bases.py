# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Configs on MMSegmentation's are read where nothing has imported mmact before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

ROOT = Path(__file__).resolve().parents[2]
FIRST = '../_base_/mmseg.py'
CONFIG = ROOT / 'configs/pau/pspnet_r50-d8-pau_4xb4-80k_ade20k-512x512.py'


def bases(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            found = ast.literal_eval(node.value)
            return found if isinstance(found, list) else [found]
    return []


def test_what_comes_first():
    found = {p: bases(p) for p in (ROOT / 'configs').rglob('*.py')}
    inheriting = {p: b for p, b in found.items() if any(name.startswith('mmseg::') for name in b)}
    assert len(inheriting) >= 9
    for path, names in inheriting.items():
        assert names[0] == FIRST, path
        assert (path.parent / FIRST).is_file(), path


def test_init_model():
    """MMSegmentation's own way to a model, in a process that knows nothing of mmact."""
    code = (
        'import sys\n'
        'from mmseg.apis import init_model\n'
        'assert "mmact" not in sys.modules\n'
        f'model = init_model({str(CONFIG)!r}, device="cpu")\n'
        'print(type(model.backbone.layer1[0].act1).__name__)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == 'PAU'
