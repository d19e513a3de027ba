# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""DCGAN on small made-up digits, and the distance that judges it."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')

from projects.digits import dcgan


def test_frechet_distance_is_that_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    turn = torch.tensor([[2.0, 1.0], [0.5, 0.3]], dtype=torch.float64)
    second = torch.randn(70, 2, generator=generator, dtype=torch.float64) @ turn + 3
    a, b = first.T.cov(), second.T.cov()
    # The eigenvalues p, q of a @ b have p q = det(a b) and p + q = tr(a b).
    cross = (a @ b).trace() + 2 * (a.det() * b.det()).sqrt()
    expected = (first.mean(0) - second.mean(0)).square().sum() + a.trace() + b.trace()
    expected -= 2 * cross.sqrt()
    assert dcgan.frechet_distance(first, second) == pytest.approx(float(expected))
    # Singular covariances: features that are constant, or copies of others.
    wide = torch.cat([first, first[:, :1], torch.ones(50, 1)], 1)
    assert dcgan.frechet_distance(wide, wide) == pytest.approx(0, abs=1e-6)
    scaled = 3 * wide + 2
    expected = (wide.mean(0) - scaled.mean(0)).square().sum() + 4 * wide.T.cov().trace()
    assert dcgan.frechet_distance(wide, scaled) == pytest.approx(float(expected))


@pytest.mark.parametrize('name', ['DCGAN', 'DiTAC', 'PWLU', 'RReLU'])
def test_dcgan_starts_from_the_same_weights(name):
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    layers = []
    for act in ('GELU', name):
        torch.manual_seed(3)
        both = dcgan.networks(4, dcgan.act_cfgs(act, 'both'))
        layers.append([layer for net in both for layer in net if isinstance(layer, kinds)])
        image = both[0](torch.randn(2, dcgan.LATENT))
        assert image.shape == (2, 1, 28, 28)
        assert both[1](image).shape == (2, 1, 1, 1)
    assert len(layers[0]) == 8 + 5
    for ours, theirs in zip(*layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)


def test_dcgan_replaces_where_it_is_told_to():
    acts = {'generator': ('ReLU', 'PReLU'), 'discriminator': ('LeakyReLU', 'PReLU')}
    for where in ('generator', 'discriminator', 'both'):
        both = dcgan.networks(2, dcgan.act_cfgs('PReLU', where))
        for (name, kinds), net in zip(acts.items(), both, strict=True):
            kind = kinds[where in (name, 'both')]
            assert sum(type(layer).__name__ == kind for layer in net) == 3
    _, original = dcgan.networks(2, dcgan.act_cfgs('DCGAN', 'both'))
    assert original[1].negative_slope == 0.2


def test_a_step_leaves_the_other_network_alone():
    torch.manual_seed(0)
    generator, discriminator = dcgan.networks(2, dcgan.ORIGINAL)
    before = [p.clone() for p in discriminator.parameters()]
    optimizer = torch.optim.Adam(generator.parameters(), 0.1)
    weight = generator[1].weight.clone()
    dcgan._step(optimizer, discriminator(generator(torch.randn(4, dcgan.LATENT))).sum())
    assert not torch.equal(generator[1].weight, weight)
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(torch.equal(*pair) for pair in zip(discriminator.parameters(), before, strict=True))


def test_dcgan_learns_and_continues(stripes, tmp_path, capsys):
    path = tmp_path / 'dcgan.jsonl'
    options = ['--data', stripes, '--runs', '1', '--width', '4', '--lr', '1e-2']
    options += ['--results', str(path)]
    for steps in ('1', '20'):
        dcgan.main([*options, '--activations', 'DiTAC', '--steps', steps])
    first, last = (json.loads(line)['result'] for line in path.read_text().splitlines())
    assert last['distance'] < 0.8 * first['distance']
    before = path.read_text()
    capsys.readouterr()
    picture = tmp_path / 'digits.png'
    options += ['--steps', '1', '--activations', 'DiTAC', 'DCGAN', '--picture', str(picture)]
    dcgan.main(options)
    text = capsys.readouterr().out
    assert f'| DiTAC | {first["distance"]:.2f} | ' in text
    assert path.read_text().startswith(before)
    assert path.read_text().count('\n') == 3  # DCGAN alone is new
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_dcgan_that_diverges_is_marked(stripes, tmp_path, capsys):
    options = ['--data', stripes, '--runs', '1', '--width', '2', '--steps', '9', '--lr', '1e30']
    dcgan.main([*options, '--activations', 'DCGAN', '--results', str(tmp_path / 'dcgan.jsonl')])
    assert '| DCGAN | not finite | |' in capsys.readouterr().out.replace('|  |', '| |')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--activations', 'DiTACC'], "'DiTACC' is not a known type"),
        (['--activations', 'Maxout'], 'channels'),
        (['--data', '/nowhere'], '--data /nowhere: no such folder'),
        (['--replace', 'none'], "argument --replace: invalid choice: 'none'"),
    ],
)
def test_wrong_arguments_of_dcgan_give_one_line(stripes, tmp_path, capsys, options, message):
    path = tmp_path / 'dcgan.jsonl'
    with pytest.raises(SystemExit) as error:
        dcgan.main(['--data', stripes, '--results', str(path), *options])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert 'error: ' in last
    assert not path.exists()
