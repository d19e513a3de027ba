# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The command that fits a PAU."""

import ast

import pytest
import torch
from PIL import Image

pytest.importorskip('matplotlib')

from mmact.activations.pau_init import initial_coefficients
from mmact.ops.reference import pau
from projects.pau_fit import fit as tool


@pytest.mark.parametrize(
    'function', ['swish_1.5', 'x * torch.sigmoid(1.5 * x)', 'fit_pau_target:swish']
)
def test_fits_prints_and_draws(function, tmp_path, capsys, monkeypatch):
    (tmp_path / 'fit_pau_target.py').write_text(
        'import torch\n\n\ndef swish(x):\n    return x * torch.sigmoid(1.5 * x)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    picture = tmp_path / 'new' / 'swish.png'
    tool.main([function, '--m', '3', '--n', '2', '--version', 'A', '--out', str(picture)])
    lines = capsys.readouterr().out.splitlines()
    fit = [torch.tensor([ast.literal_eval(line.split(': ')[1])]).double() for line in lines[:2]]
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    worst = (pau(x, *fit, 0, 'A') - x * torch.sigmoid(1.5 * x)).abs().max()
    assert worst < 0.06  # measured 0.05
    printed = float(lines[2].split('max ')[1].split()[0])
    assert printed == pytest.approx(float(worst), rel=0.05)
    with Image.open(picture) as image:
        assert len(image.convert('RGB').getcolors(1_000_000)) > 20


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['rleu'], 'known are'),
        (['torch:rleu'], 'no attribute'),
        (['x **'], 'invalid syntax'),
        (['torch.log(x)'], 'choose an interval'),
        (['relu', '--m', '0'], 'm must be a positive integer'),
    ],
)
def test_mistakes_are_one_line(arguments, text):
    with pytest.raises(SystemExit) as stop:
        tool.main(arguments)
    assert text in stop.value.code
    assert '\n' not in stop.value.code


def test_table6(capsys):
    tool.main(['--table6', '--num-points', '301'])
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('|')
    ]
    first = {row[0]: row for row in rows[2:11]}
    assert set(first) == set(tool.TABLE6)
    # The denominator decides: 0.279 with Eq. 2, 0.0256 with version A.
    assert first['leaky_relu_0.20'][1].startswith('max 0.279 at x = -3')
    assert first['leaky_relu_0.20'][2].startswith('max 0.0256 at x = 0')
    second = {row[0]: row for row in rows[13:]}
    assert len(second) == 6
    for row in second.values():
        assert float(row[3]) <= float(row[4]) + 1e-8


def test_printed_values_are_not_what_we_start_from():
    for name, (numerator, denominator) in tool.TABLE6.items():
        ours = torch.cat(initial_coefficients(name)).tolist()
        same = ours == pytest.approx([*numerator, *denominator], abs=1e-15)
        assert same == (name in ('tanh', 'swish'))
