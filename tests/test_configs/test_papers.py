# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""docs/papers.md is complete, its configs and commands work, and its numbers have a source."""

import argparse
import functools
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from marks import every_second
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope

from mmact.activations import unresolved
from mmact.ops._compat import VERSION

ROOT = Path(__file__).resolve().parents[2]
PAPERS = json.loads((ROOT / 'docs/papers.json').read_text(encoding='utf-8'))
ENTRIES = [entry for paper in PAPERS for entry in paper['entries']]
RUNS = sorted({run for entry in ENTRIES for run in entry['run']})
WITH_OPTIONS = [run for run in RUNS if ' --cfg-options ' in run]
# Numbers of the tables and of the figures that each paper has; DiTAC's in its supplement.
TABLES = {
    'PWLU': (range(1, 8), range(1, 8)),
    'Dynamic ReLU': (range(1, 13), range(1, 4)),
    'PAU': (range(1, 8), range(1, 9)),
    'AReLU': (range(1, 9), range(1, 10)),
    'DiTAC': (range(7, 11), range(8, 14)),
}


def test_the_page_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/misc')
    tool = runpy.run_path(str(ROOT / 'tools/misc/print_papers.py'))
    monkeypatch.setattr(sys, 'argv', ['print_papers.py', '--check'])
    tool['main']()


@pytest.mark.parametrize('paper', PAPERS, ids=lambda paper: paper['name'])
def test_every_table_and_figure_is_there(paper):
    for word, numbers in zip(('Table', 'Figure'), TABLES[paper['name']], strict=True):
        found = {
            int(number)
            for entry in paper['entries']
            for number in re.findall(rf'^{word} (\d+)', entry['item'])
        }
        assert found == set(numbers)


def test_states_say_what_is_there():
    for entry in ENTRIES:
        assert set(entry) == {'item', 'about', 'run', 'state', 'note', 'result', 'source'}
        assert entry['state'] in ('run', 'checked', 'data', 'partly', 'missing')
        if entry['state'] in ('run', 'checked', 'partly'):
            assert entry['run'], entry['item']
        if entry['state'] == 'missing':
            assert not entry['run'], entry['item']
        if entry['state'] == 'data':
            assert entry['note'], entry['item']
            assert entry['run'] or 'as Table' in entry['note']
        assert bool(entry['result']) == bool(entry['source'])


def test_every_number_is_in_a_file_that_is_checked_in():
    for entry in ENTRIES:
        if entry['result']:
            source = (ROOT / entry['source']).read_text(encoding='utf-8')
            for number in re.findall(r'\d+\.\d+', entry['result']):
                assert number in source, (entry['item'], number)


def test_every_config_is_there():
    paths = {run.partition(' ')[0] for run in RUNS if run.startswith('configs/')}
    assert len(paths) > 60
    assert all((ROOT / path).is_file() for path in paths)


@functools.cache
def _read(path: str) -> Config:
    return Config.fromfile(ROOT / path)


def _with_options(run: str) -> Config:
    """The config of a row with its options."""
    path, *words = shlex.split(run)
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = Config(_read(path)._cfg_dict.to_dict())
    cfg.merge_from_dict(parser.parse_args(words).cfg_options)
    assert cfg._cfg_dict != _read(path)._cfg_dict
    init_default_scope(cfg.default_scope)
    return cfg


def _form(run: str) -> tuple[str, ...]:
    """A config and which of its settings change, without their values."""
    return tuple(word.partition('=')[0] for word in run.split())


# A backbone is built for one row of each form; of the others, whose values alone differ, the layer.
BUILT = {_form(run): run for run in WITH_OPTIONS if 'efficientnet' not in run}


@pytest.mark.parametrize('run', every_second(BUILT.values()))
def test_options_build(run):
    """Configs as they stand are built by other tests of this folder."""
    cfg = _with_options(run)
    # RReLU has no shape function before torch 2.2.
    with torch.device('cpu' if 'RReLU' in run and VERSION < (2, 2) else 'meta'):
        backbone = MODELS.build(cfg.model.backbone)
        backbone.eval()  # MMDetection's ResNet returns nothing
        features = backbone(torch.empty(1, 3, 64, 64))[-1]
    assert features.size(1) == cfg.model.head.in_channels
    assert not unresolved(backbone)


def test_values_of_options_are_accepted():
    rest = sorted(set(WITH_OPTIONS) - set(BUILT.values()))
    assert len(rest) > 30
    for run in rest:
        cfg = _with_options(run)
        act_cfg = cfg.model.get('act_cfg') or cfg.model.backbone.act_cfg
        layer = MODELS.build(dict(act_cfg))
        model = nn.Sequential(nn.Conv2d(3, 16, 1), layer)
        assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 16, 4, 4)


@pytest.mark.parametrize(
    'program', sorted({' '.join(run.split()[1:3]) for run in RUNS if run.startswith('python ')})
)
def test_every_command_answers_help(program, monkeypatch, capsys):
    """In this process, which has imported most of what they need."""
    first, _, second = program.partition(' ')
    name = second if first == '-m' else first
    monkeypatch.setattr(sys, 'argv', [name, '--help'])
    monkeypatch.syspath_prepend((ROOT / name).parent)
    run, where = (runpy.run_module, name) if first == '-m' else (runpy.run_path, str(ROOT / name))
    with pytest.raises(SystemExit) as stop:
        run(where, run_name='__main__')
    assert not stop.value.code
    assert 'usage' in capsys.readouterr().out


def test_options_of_commands_are_known():
    """Of the projects' programs, whose parsers can be asked."""
    from projects.digits import accuracy, convergence, dcgan, initial, maml, maps, prune, transfer
    from projects.ditac_toys import regression

    programs = (accuracy, convergence, dcgan, initial, maml, maps, prune, transfer, regression)
    parsers = {program.__name__: program.parse_args for program in programs}
    asked = 0
    for run in RUNS:
        words = shlex.split(run)
        if words[:2] == ['python', '-m'] and words[2] in parsers:
            parsers[words[2]](words[3:])
            asked += 1
    assert asked >= 14


def test_every_test_is_there():
    for run in RUNS:
        if run.startswith('pytest '):
            assert (ROOT / run.split()[1]).exists()
