# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A dozen small models of the conversion sweep, and its page."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from marks import slow_unless

for package in ('mmdet', 'mmseg', 'mmpose', 'mmpretrain', 'timm', 'torchvision'):
    pytest.importorskip(package)

TOOLS = Path(__file__).resolve().parents[2] / 'tools/misc'

# Module sites, function sites.
MODELS = {
    'mmdet/rtmdet': (76, 0),
    'mmdet/fcos': (25, 1),
    'mmseg/fastscnn': (31, 0),
    'mmseg/segformer': (13, 0),
    'mmpose/body_2d_keypoint/topdown_regression/coco': (49, 0),
    'mmpretrain/shufflenet_v2': (37, 0),
    'torchvision/squeezenet1_1': (26, 0),
    'torchvision/googlenet': (0, 61),
    'torchvision/shufflenet_v2_x0_5': (37, 0),
    'timm/convnext': (12, 0),
    'timm/ghostnet': (34, 0),
    'timm/vision_transformer': (12, 0),
}


@pytest.fixture(scope='module')
def sweep():
    tool = runpy.run_path(str(TOOLS / 'conversion_sweep.py'))
    return tool['examine'], dict(tool['jobs']())


@pytest.mark.parametrize('name', slow_unless(list(MODELS)[::4].__contains__, MODELS))
@pytest.mark.filterwarnings('ignore')
def test_small_models(sweep, name):
    """All call sites, the same function, and a step that reaches every parameter."""
    examine, candidates = sweep
    result = examine(name, candidates[name], pwlu_only=True)
    assert result['built']
    assert result['notes'] == []
    assert (result['modules']['replaced'], result['functions']['replaced']) == MODELS[name]
    assert result['modules']['left'] == result['functions']['left'] == 0, result['left']
    assert result['keys lost'] == []
    # Random networks of many layers multiply the error of a table of SiLU or GELU.
    assert result['error'] < 0.03
    if result['error'] < 1e-6:
        assert result['difference']['PWLU'] <= 1e-5
    step = result['step']
    assert (step['without'], step['lost'], step['finite']) == ([], [], True)


def test_the_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    page = runpy.run_path(str(TOOLS / 'print_conversion.py'))
    assert page['PAGE'].read_text(encoding='utf-8') == page['page']()
    assert sys.path[0] == str(TOOLS)


def test_share_of_the_sites():
    """At least 95 % of the module call sites of all that was converted."""
    results = json.loads((TOOLS / 'conversion_sweep.json').read_text(encoding='utf-8'))
    done = [r['modules'] for r in results.values() if 'modules' in r]
    replaced, left = (sum(r[key] for r in done) for key in ('replaced', 'left'))
    assert len(done) > 100
    assert replaced >= 0.95 * (replaced + left)
