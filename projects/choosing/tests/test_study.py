# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The study that helps to choose: what its configs build, and one training of each start."""

import json
from collections import Counter

import pytest

pytest.importorskip('mmpose')

from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from torch import nn

from mmact.activations import Activation
from projects.choosing import study
from projects.mini_datasets import make_coco


def key(task, activation, start, length=1.0):
    return dict(task=task, activation=activation, start=start, length=length, seed=0)


def kinds(task, activation, start):
    """The activations of the net of a run, by type."""
    cfg = study.config(key(task, activation, start))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    types = (Activation, nn.ReLU, nn.SiLU)
    return Counter(type(m).__name__ for m in model.modules() if isinstance(m, types))


@pytest.mark.parametrize('task', study.TASKS)
def test_every_place_has_the_activation(task):
    relu = kinds(task, 'ReLU', 'scratch')
    assert set(relu) == {'ReLU'}
    assert kinds(task, 'ReLU', 'converted') == relu
    assert kinds(task, 'SiLU', 'scratch')['SiLU'] >= relu['ReLU']
    # Maps of 1 x 1 in the pyramid's pooling keep their ReLU.
    assert kinds(task, 'PWLU', 'converted')['PWLU'] >= 0.9 * relu['ReLU']


@pytest.mark.parametrize('task', study.TASKS)
def test_lengths(task):
    whole, half = (study.config(key(task, 'PWLU', 'scratch', length)) for length in (1, 0.5))
    more = study.config(key(task, 'PWLU', 'converted'))
    unit = 'max_iters' if 'max_iters' in whole.train_cfg else 'max_epochs'
    length = whole.train_cfg[unit]
    assert half.train_cfg[unit] == length // 2
    assert more.train_cfg[unit] == length // 4
    assert half.train_cfg.val_interval == length // 2
    assert [2 * s.end for s in half.param_scheduler] == [s.end for s in whole.param_scheduler]
    assert whole.custom_hooks[0].phase1 == length // 4
    assert not more.custom_hooks
    lr = whole.optim_wrapper.optimizer.lr
    assert more.optim_wrapper.optimizer.lr == pytest.approx(lr / 10)


def test_tables_and_picture(tmp_path, capsys, monkeypatch):
    """Of results that are there, so that nothing is trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/mini_coco').mkdir(parents=True)
    rows = [
        dict(
            key=dict(key('pose', name, start, 0.5), seed=seed),
            result=dict(score=50 + seed, iteration_ms=9.0, cpu_seconds=cost, peak_mib=100),
        )
        for name, cost in (('ReLU', 20), ('PAU', 30))
        for start in study.STARTS
        for seed in (0, 1)
    ]
    results = tmp_path / 'results.jsonl'
    results.write_text('\n'.join(map(json.dumps, rows)) + '\n')
    picture = tmp_path / 'pictures/study.png'
    study.main(
        ['--tasks', 'pose', '--activations', 'ReLU', 'PAU', '--runs', '2', '--length', '0.5']
        + ['--results', str(results), '--picture', str(picture)]
    )
    assert '| PAU | 50.50 ± 0.71 | 50.50 ± 0.71 | 1.50 | 1.00 |' in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_missing_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        study.main(['--tasks', 'pose'])
    assert 'make data/mini_coco' in capsys.readouterr().err


@pytest.mark.slow
def test_one_training_of_each_start(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / 'data/mini_coco', num_train=32, num_val=4, size=(96, 96), quiet=True)
    results = tmp_path / 'results.jsonl'
    arguments = ['--tasks', 'pose', '--activations', 'ReLU', 'PAU', '--runs', '1']
    arguments += ['--length', '0.1', '--results', str(results)]
    study.main(arguments)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(lines) == 4
    assert all(line['result']['cpu_seconds'] > 0 for line in lines)
    folder = study.work_dir(lines[0]['key'])
    weights = CheckpointLoader.load_checkpoint((folder / 'last_checkpoint').read_text())
    assert weights['meta']['epoch'] == 2
    study.main(arguments)
    assert '4 of 4 runs are there already' in capsys.readouterr().out
