# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stacked networks, tasks, tables, resuming."""

import math

import pytest
import torch
from marks import slow
from torch import nn
from torch.nn import functional as F

pytest.importorskip('mmcv')

from mmact.activations import PWLU, AReLU
from projects.ditac_toys import nets, regression
from projects.ditac_toys.nets import ACTIVATIONS, StackedMLP
from projects.ditac_toys.regression import train
from projects.ditac_toys.report import PAPER, best, to_markdown
from projects.ditac_toys.tasks import TASKS, function_2d, gaussian_mixture, sines

# DiTAC's table takes long where its kernels are not built.
ITERATIONS = 4


@pytest.mark.parametrize('activation', list(ACTIVATIONS))
def test_seeds_together_are_what_they_are_alone(activation):
    together = train('sines', activation, 1e-2, [3, 8], ITERATIONS)
    for place, seed in enumerate((3, 8)):
        alone = train('sines', activation, 1e-2, [seed], ITERATIONS)
        assert alone['parameters'] == together['parameters']
        # Measured: at most 1.1e-7. Another CPU may add up products of matrices otherwise.
        assert alone['mse'][0] == pytest.approx(together['mse'][place], rel=1e-5)
    assert together['mse'][0] != pytest.approx(together['mse'][1], rel=1e-3)


@pytest.mark.parametrize('name', ['sines', 'auto_mpg'])
def test_training_is_pytorchs(name):
    """A network of nn.Linear, trained on the same batches."""
    seed, task = 5, TASKS[name]
    data = task.load([seed])
    torch.manual_seed(seed)
    widths = list(zip(task.widths, task.widths[1:], strict=False))
    linear = [nn.Linear(i, o) for i, o in widths]
    acts = [nn.PReLU() for _ in widths[1:]] + [nn.Identity()]
    net = nn.Sequential(*(m for pair in zip(linear, acts, strict=True) for m in pair))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(20):
        x, y = next(data.batches)
        assert x.shape == (1, 98, 1)
        optimizer.zero_grad()
        F.mse_loss(net(x[0]), y[0]).backward()
        optimizer.step()
    with torch.no_grad():
        mse = F.mse_loss(net(data.test_x[0]), data.test_y[0]) * data.unit[0]
        r2 = 100 - 100 * mse / (data.test_y.var(correction=0) * data.unit[0])
    ours = train(name, 'PReLU', 1e-2, [seed], 20)
    assert ours['mse'] == [pytest.approx(float(mse), rel=1e-4)]
    assert ours['r2'] == [pytest.approx(float(r2), abs=1e-2)]


def test_classification_is_pytorchs():
    seed, task = 5, TASKS['gmm']
    data = task.load([seed])
    torch.manual_seed(seed)
    linear = [nn.Linear(2, 100), nn.Linear(100, 100), nn.Linear(100, 10)]
    net = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(data.steps):
        x, y = next(data.batches)
        optimizer.zero_grad()
        F.cross_entropy(net(x[0]), y[0]).backward()
        optimizer.step()
    expected = 100 * (net(data.test_x[0]).argmax(1) == data.test_y[0]).float().mean()
    ours = train('gmm', 'ReLU', 1e-3, [seed], data.steps)
    assert ours['iterations'] == data.steps == 55
    assert ours['accuracy'] == [pytest.approx(float(expected), abs=0.15)]  # two of 1,500 points
    assert ours['accuracy'][0] > 50


def test_parameters_are_those_of_table_8():
    for name, number in (('ReLU', 193), ('Swish', 194), ('PReLU', 194), ('DiTAC', 202)):
        assert StackedMLP(TASKS['sines'].widths, name, range(3)).num_parameters() == number


def test_arelu_is_mmacts():
    act = ACTIVATIONS['AReLU'](2)
    with torch.no_grad():
        act.alpha.copy_(torch.tensor([0.3, 1.5]))  # the second is clamped
        act.beta.copy_(torch.tensor([-1.0, 2.0]))
    x = torch.randn(2, 5, 7)
    for place in range(2):
        alone = AReLU()
        with torch.no_grad():
            alone.alpha.copy_(act.alpha[place])
            alone.beta.copy_(act.beta[place])
        torch.testing.assert_close(act(x)[place], alone(x[place]))


def test_ditac_starts_as_gelu_and_the_prior_does_not():
    x = torch.linspace(-1, 1, 50).reshape(1, -1, 1).expand(2, -1, -1)
    gelu, zero, prior = (
        StackedMLP((1, 64, 1), name, [0, 1])(x) for name in ('GELU', 'DiTAC', 'DiTAC-prior')
    )
    torch.testing.assert_close(zero, gelu, atol=1e-6, rtol=1e-5)
    assert (prior - gelu).abs().max() > 1e-3


def test_authors_ditac_is_regularised(monkeypatch):
    net = StackedMLP((1, 8, 8, 1), 'DiTAC-authors', [0, 1])
    acts = list(net.activations)
    expected = 0.1 * sum(act.smoothness().item() for act in acts)
    assert net.regularizer().item() == pytest.approx(expected)
    assert expected > 0
    # A draw differs between seeds and layers.
    draws = torch.cat([act.rows('theta') for act in acts])
    assert draws.unique(dim=0).size(0) == 4
    start = StackedMLP((1, 8, 8, 1), 'DiTAC-authors-start', [0, 1])
    assert start.regularizer() == 0
    for ours, theirs in zip(acts, start.activations, strict=True):
        assert torch.equal(ours.theta, theirs.theta)
    # By a weight as large as this, the regulariser is all that a training minimises.
    rough = {}
    for weight in (0.0, 1e4):
        monkeypatch.setattr(nets, 'AUTHORS_WEIGHT', weight)
        made = []
        monkeypatch.setattr(
            regression, 'StackedMLP', lambda *args, m=made: m.append(StackedMLP(*args)) or m[0]
        )
        train('sines', 'DiTAC-authors', 1e-2, [0, 1], 60)
        rough[weight] = made[0].activations[0].smoothness().item()
    assert rough[1e4] < 0.5 * rough[0.0]


def test_pwlu_is_aligned_with_its_statistics(monkeypatch):
    nets = []
    monkeypatch.setattr(
        regression, 'StackedMLP', lambda *args: nets.append(StackedMLP(*args)) or nets[0]
    )
    seen = []
    monkeypatch.setattr(PWLU, 'realign', _recording(PWLU.realign, seen))
    train('sines', 'PWLU', 1e-3, [0, 1], 60)
    (act,) = nets[0].activations
    assert act.phase == 'learn'
    assert seen == [3]  # batches of phase I: the first twentieth
    half = 3 * act.running_std
    # Of the order of what Adam can move them in 57 iterations.
    torch.testing.assert_close(act.left_bound, act.running_mean - half, atol=0.06, rtol=0)
    torch.testing.assert_close(act.right_bound, act.running_mean + half, atol=0.06, rtol=0)
    assert act.running_std[0] != act.running_std[1]


def _recording(realign, seen: list):
    def record(self):
        seen.append(int(self.num_batches_tracked))
        realign(self)

    return record


def test_functions():
    x, y = 0.3, -0.2
    expected = (
        0.4 * math.sin(9 * x - 7 * y)
        + 0.1 * math.sin(-9 * x + 11 * y)
        + 0.15 * math.sin(3 * x + 13 * y)
        + 0.15 * math.sin(9 * x + 9 * y)
        + 0.1 * math.sin(13 * x + 5 * y)
        + 0.1 * math.sin(3 * x + 19 * y)
    )
    assert float(function_2d(torch.tensor([x, y]))) == pytest.approx(expected, rel=1e-5)
    expected = 0.4 * math.sin(19 * x) + 0.2 * math.sin(23 * x) + 0.3 * math.sin(29 * x)
    expected += 0.1 * math.sin(31 * x)
    assert float(sines(torch.tensor([x]))) == pytest.approx(expected, rel=1e-5)
    for name, inputs in (('sin_exp', 1), ('sines', 1), ('function_2d', 2)):
        data = TASKS[name].load([0, 1])
        (a, _), (b, _) = next(data.batches), next(data.batches)
        assert a.shape == (2, 98, inputs)
        low, high = data.test_x.min(), data.test_x.max()
        assert low <= a.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < a.max() <= high
        assert not torch.equal(a[0], a[1])
        assert not torch.equal(a, b)


def test_auto_mpg_predicts_horsepower():
    """Table 7: its MSE and R2 give a variance of about 1452; that of MPG is 61."""
    pytest.importorskip('mlxtend')
    data = TASKS['auto_mpg'].load([0, 1])
    assert data.test_x.shape == data.test_y.shape == (2, 98, 1)
    variance = data.test_y.var((1, 2), correction=0) * data.unit
    assert (variance > 700).all()
    batches = [next(data.batches) for _ in range(3)]
    x, y = (torch.cat(part, 1) for part in zip(*batches, strict=True))
    for part in (x, y):
        torch.testing.assert_close(part.mean(1), torch.zeros(2, 1), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.std(1), torch.ones(2, 1), atol=1e-5, rtol=0)
    assert ((x * y).mean(1) < -0.7).all()  # thirsty cars are strong


def test_mixture():
    points, labels = gaussian_mixture()
    assert points.shape == (5000, 2)
    assert labels.bincount().numel() == 10
    again, _ = gaussian_mixture()
    assert torch.equal(points, again)
    data = TASKS['gmm'].load([0, 1])
    assert data.test_x.shape == (2, 1500, 2)
    batches = [next(data.batches) for _ in range(data.steps)]
    assert [len(y[0]) for _, y in batches] == [64] * 54 + [44]
    x = torch.cat([x for x, _ in batches], 1)
    assert torch.equal(x[0].sort(0).values, x[1].sort(0).values)  # the same, in another order
    assert not torch.equal(x[0], x[1])


SHORT = ('--task', 'sines', 'gmm', '--activations', 'ReLU', 'PWLU', '--lr', '1e-2', '1e-3')


@slow
def test_tables_figures_and_resuming(tmp_path, capsys, monkeypatch):
    options = [*SHORT, '--seeds', '2', '--iterations', '1', '--work-dir']
    regression.main([*options, str(tmp_path / 'whole'), '--jobs', '2'])
    text = (tmp_path / 'whole/tables.md').read_text()
    assert text in capsys.readouterr().out
    assert '1-64-1, 1 iterations, 2 seeds; paper lr 0.001.' in text
    assert '| ReLU | 193 [193] | ' in text
    assert ' [93.30] | ' in text
    for name in ('sines_curves', 'sines_functions', 'gmm_curves'):
        assert (tmp_path / f'whole/{name}.png').read_bytes().startswith(b'\x89PNG')
    lines = (tmp_path / 'whole/results.jsonl').read_text().splitlines(keepends=True)
    assert len(lines) == 2 * 2 * 2

    # As if it had been killed while it wrote the fourth result.
    part = tmp_path / 'part'
    part.mkdir()
    (part / 'results.jsonl').write_text(''.join(lines[:3]) + lines[3][:30])
    ran = []
    run = regression.run
    monkeypatch.setattr(regression, 'run', lambda key: ran.append(key) or run(key))
    regression.main([*options, str(part)])
    assert len(ran) == 5
    assert (part / 'tables.md').read_text() == text


def test_training_that_diverges_is_marked(tmp_path):
    regression.main(
        ['--task', 'sines', '--activations', 'ELU', 'ReLU', '--lr', '1e30', '1e-3', '--seeds', '2']
        + ['--iterations', '3', '--work-dir', str(tmp_path)]
    )
    rows = (tmp_path / 'tables.md').read_text().splitlines()
    row = next(row for row in rows if row.startswith('| ReLU'))
    assert row.startswith('| ReLU | 193 [193] | 0.001 | ')
    assert ' | -- | ' in row  # of the learning rate 1e30
    regression.main(
        ['--task', 'sines', '--activations', 'ReLU', '--lr', '1e30', '--seeds', '2']
        + ['--iterations', '3', '--work-dir', str(tmp_path)]
    )
    assert '| -- (2 of 2 diverged) [93.30] | ' in (tmp_path / 'tables.md').read_text()


def test_best_learning_rate_is_by_mean_over_seeds():
    def result(lr, *r2):
        return {'activation': 'ReLU', 'lr': lr, 'r2': list(r2), 'mse': [1.0 for _ in r2]}

    results = [result(1e-2, 99.0, None), result(3e-3, 50.0, 70.0), result(1e-3, 65.0, 60.0)]
    assert best(results)['ReLU']['lr'] == 1e-3
    assert best(results[:2])['ReLU']['lr'] == 3e-3
    assert best(results[:1])['ReLU']['lr'] == 1e-2
    common = {'seeds': 2, 'iterations': 10, 'parameters': 193, 'curve': [(10, [1.0, 1.0])]}
    text = to_markdown('sines', TASKS['sines'], [{**r, **common} for r in results])
    assert '| 62.50 ± 3.54' in text.replace('**', '')
    assert text.rstrip().endswith('| -- | 60.00 | 62.50 |')
    assert set(PAPER['sines']) <= set(ACTIVATIONS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--task', 'sine'], "argument --task: invalid choice: 'sine'"),
        (['--activations', 'Relu'], "argument --activations: invalid choice: 'Relu'"),
        (['--seeds', '0'], "argument --seeds: '0' is not a positive int"),
        (['--lr', 'nan'], "argument --lr: 'nan' is not a positive float"),
    ],
)
def test_wrong_arguments_give_one_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        regression.main([*options, '--work-dir', str(tmp_path / 'out')])
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'out').exists()
