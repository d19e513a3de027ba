# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The studies of single tables and figures, on small made-up digits."""

import json

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

pytest.importorskip('mmcv')

from mmact.activations import RPAU
from projects.digits import accuracy, initial, maml, maps, transfer
from projects.digits.data import load_digits
from projects.digits.training import MNISTConv, lenet, num_parameters, vgg8


def again(program, arguments, capsys):
    """Runs a study twice; the second time everything is there. Returns what it printed."""
    program.main(arguments)
    first = capsys.readouterr().out
    program.main(arguments)
    second = capsys.readouterr().out
    assert 'runs are there already' in second
    table = second[second.index('Accuracy (%)') :]
    assert first.endswith(table)
    return table


def test_networks_of_the_pau_paper():
    """Table 7 gives their numbers of parameters."""
    assert num_parameters(lenet(dict(type='PAU')).parameters()) == 61746
    net = vgg8(dict(type='PAU'))
    assert num_parameters(net.parameters()) == 9224508
    assert num_parameters([p for a in net.activations for p in a.parameters()]) == 50


def test_accuracy_of_lenet(stripes, tmp_path, capsys):
    results = tmp_path / 'results.jsonl'
    arguments = ['--data', stripes, '--runs', '2', '--epochs', '12', '--results', str(results)]
    table = again(accuracy, [*arguments, '--activations', 'PAU', 'AReLU'], capsys)
    rows = [line.split('|') for line in table.splitlines() if line.startswith('| PAU')]
    assert float(rows[0][3]) > 70
    entries = [json.loads(line)['result'] for line in results.read_text().splitlines()]
    for entry in entries:
        assert len(entry['curve']) == len(entry['losses']) == 12
        assert entry['losses'][-1] < entry['losses'][0] / 2 < 1.5
    assert [len(entry['coefficients']) for entry in entries] == [4, 0] * 2
    with pytest.raises(SystemExit):
        accuracy.main([*arguments, '--activations', 'AReLU', '--functions', 'none.png'])
    assert 'needs a run with RPAU' in capsys.readouterr().err
    small = ['--network', 'vgg8', '--width', '4', '--epochs', '1', '--activations', 'ReLU']
    assert 'vgg8 of 4 channels' in again(accuracy, [*arguments[:4], *arguments[6:], *small], capsys)


def test_learned_rpaus_are_drawn(stripes, tmp_path, capsys, monkeypatch):
    drawn = []
    plot = accuracy.plot_functions
    spy = lambda *args, **kwargs: drawn.append(args) or plot(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(accuracy, 'plot_functions', spy)
    results, picture = tmp_path / 'results.jsonl', tmp_path / 'functions.png'
    arguments = ['--data', stripes, '--runs', '1', '--epochs', '2', '--results', str(results)]
    accuracy.main([*arguments, '--activations', 'RPAU', '--functions', str(picture)])
    assert picture.read_bytes().startswith(b'\x89PNG')
    kept = json.loads(results.read_text())['result']['coefficients']
    layers = list(drawn[0][0].values())
    for layer, (numerator, denominator) in zip(layers, kept, strict=True):
        assert layer.numerator.tolist() == pytest.approx(numerator)
        assert layer.denominator.tolist() == pytest.approx(denominator)
    # Trained, and so no longer as they started.
    assert layers[0].numerator.tolist() != pytest.approx(RPAU().numerator.tolist())


def test_how_often_pau_is_as_good():
    runs = {'PAU': [97, 95, 90], 'RPAU': [96, 96, 99], 'ReLU': [97, 97, 98], 'Swish': [98, 90, 95]}
    results = [
        dict(act_cfg=dict(type=name), seed=seed, accuracy=value, finite=(name, seed) != ('RPAU', 2))
        for name, values in runs.items()
        for seed, value in enumerate(values)
    ]
    assert accuracy.as_good(results, 'ReLU') == '1 of 3'
    assert accuracy.as_good(results, 'Swish') == '1 of 3'
    assert accuracy.as_good(results[:6], 'PAU') == ''
    assert accuracy.as_good(results[6:], 'ReLU') == ''


def test_curves_of_accuracy_are_drawn(tmp_path, monkeypatch):
    """Loss too, unless a run of an older version has none; runs that were not finite are not."""
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    runs = [('PAU', [80.0, 90.0]), ('PAU', [90.0, 92.0]), ('SLAF', [10.0]), ('AReLU', [70.0, 71.0])]
    results = [
        dict(act_cfg=dict(type=name), curve=c, losses=[2.0, 1.0], finite=len(c) == 2)
        for name, c in runs
    ]
    accuracy.draw(results, tmp_path / 'both.png', 'digits')
    curves, losses = plt.gcf().axes
    assert [line.get_label() for line in curves.lines] == ['PAU', 'AReLU']
    assert curves.lines[0].get_ydata().tolist() == [85, 91]
    band = curves.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((85 - 50**0.5, 91 + 2**0.5))
    assert len(losses.lines) == 2
    del results[0]['losses']
    accuracy.draw(results, tmp_path / 'one.png', 'digits')
    assert len(plt.gcf().axes) == 1
    assert (tmp_path / 'one.png').read_bytes().startswith(b'\x89PNG')


def test_transfer(stripes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(transfer, 'MNIST_EPOCH', 300)
    arguments = ['--data', stripes, '--target', stripes, '--runs', '1', '--epoch-samples', '300']
    arguments += ['--activations', 'AReLU', '--results', str(tmp_path / 'results.jsonl')]
    cells = again(transfer, arguments, capsys).strip().splitlines()[-1].split('|')[2:-1]
    values = [float(cell.split()[0]) for cell in cells]
    # On the set that it has learned it is good at once, and fine-tuning does no harm.
    assert values[0] < 50 < 70 < min(values[1:])


def test_a_study_of_initial_values(stripes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(initial, 'ALPHAS', (0.25, 0.9))
    monkeypatch.setattr(initial, 'BETAS', (1.0, 2.0))
    results, picture = tmp_path / 'results.jsonl', tmp_path / 'figure.png'
    arguments = ['--data', stripes, '--runs', '2', '--samples', '640', '--results', str(results)]
    initial.main(arguments)
    assert capsys.readouterr().out.count(' ± ') == 9
    initial.main([*arguments, '--picture', str(picture)])
    assert picture.stat().st_size > 10000
    entry = json.loads(results.read_text().splitlines()[0])
    assert entry['result']['steps'] == [0, 1, 2, 3, 4, 5]
    assert entry['result']['alphas'][0] == [entry['key']['alpha']] * 3
    assert entry['result']['betas'][-1] != entry['result']['betas'][0]


def test_pictures_of_maps(stripes, tmp_path, capsys):
    maps.main(['--data', stripes, '--samples', '256', '--out', str(tmp_path)])
    assert capsys.readouterr().out.count('% of the test digits') == 2
    assert all((tmp_path / f'{n}.png').read_bytes().startswith(b'\x89PNG') for n in ('maps', 'cam'))


def test_factors_of_arelu_are_drawn(stripes):
    digits = load_digits(stripes)
    net = MNISTConv(dict(type='AReLU', alpha=0.3, beta=-1.0)).eval()
    figure = maps.draw_maps({'AReLU': net}, digits.test_images[4], layer=2)
    shown = [axes.images[0].get_array().data for axes in figure.axes if axes.images]
    before, factors, after = (np.stack(shown[start : start + 10]) for start in (1, 11, 21))
    np.testing.assert_allclose(before * factors, after, rtol=1e-5)
    positive = 1 + 1 / (1 + np.e)
    np.testing.assert_allclose(factors, np.where(before > 0, positive, 0.3), rtol=1e-5)


def test_grad_cam_finds_the_bars(stripes):
    """A class is the place of a bright bar, and nothing else."""
    digits = load_digits(stripes)
    net = maps.trained('ReLU', digits, 12000)
    assert accuracy.accuracy(net, digits) > 90
    for layer in (1, 2):
        cam = maps.grad_cam(net, digits.test_images, digits.test_labels, layer)
        assert cam.shape == (100, 28, 28)
        assert cam.min() == 0
        rows = torch.arange(28)
        middle = 2 * digits.test_labels[:, None] + 5
        near = (rows - middle).abs() < 6
        weight = cam.mean(2)
        assert (weight * near).sum() / weight.sum() > 0.6 > near.float().mean()


def test_maml_goes_through_its_inner_steps():
    """The gradient is that of the loss after adapting, by differences in float64."""
    torch.manual_seed(0)
    net = MNISTConv(dict(type='AReLU')).double()
    images = torch.rand(10, 1, 28, 28).double()
    task = images[:5], images[5:], torch.arange(5)
    loss, _ = maml.adapt_and_judge(net, *task, 0.01)
    loss.backward()
    for p in (net.fc.bias, net.activations[0].beta):
        step = torch.zeros_like(p)
        step[0] = 1e-5
        losses = []
        for sign in (1, -1):
            p.data += sign * step
            losses.append(maml.adapt_and_judge(net, *task, 0.01, second_order=False)[0].item())
            p.data -= sign * step
        assert p.grad[0].item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4)


def test_maml(stripes, tmp_path, capsys):
    arguments = ['--data', stripes, '--runs', '1', '--iterations', '2', '--tasks', '2', '--shots']
    arguments += ['1', '--activations', 'ReLU', 'PAU', '--results', str(tmp_path / 'r.jsonl')]
    assert again(maml, arguments, capsys).count('\n| ') == 3
    # With pixels in [0, 1] ReLU does not learn.
    keys = [json.loads(line)['key'] for line in (tmp_path / 'r.jsonl').read_text().splitlines()]
    assert {key['data'] for key in keys} == {load_digits(stripes).normalized().identity}
    assert {(key['inner_lr'], key['outputs']) for key in keys} == {(0.01, 5)}
