# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Curves of learned functions and the alignment of Eq. 7."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmact.activations import PAU, PWLU, RPAU
from mmact.visualization import alignment_iou, input_quantiles, plot_alignment, plot_functions
from mmact.visualization.functions import noise_band
from mmact.visualization.layers import evaluate


def learned(channels: int = 6, **kwargs) -> PWLU:
    """A layer as training leaves it."""
    torch.manual_seed(channels)
    layer = PWLU(channels, num_intervals=8, **kwargs)
    with torch.no_grad():
        layer.left_bound.uniform_(-4, -1)
        layer.right_bound.uniform_(1, 4)
        layer.points += 0.3 * torch.rand_like(layer.points)
        layer.left_slope.uniform_(-0.5, 0.5)
    return layer


def curves_of(axes) -> dict[str, np.ndarray]:
    """(x, y) of the labelled curves of a panel, by channel."""
    labelled = [line for line in axes.get_lines() if not line.get_label().startswith('_')]
    return {line.get_label(): line.get_xydata() for line in labelled}


def panels_of(figure) -> list:
    return [axes for axes in figure.axes if axes.get_title()]


# Eq. 7


def test_iou_by_hand():
    layer = PWLU(5)
    layer.left_bound.data = torch.tensor([-1.0, -1.0, -1.0, 0.0, 1.0])
    layer.right_bound.data = torch.tensor([1.0, 1.0, 1.0, 4.0, 0.5])
    quantiles = torch.tensor([[-1.0, 1.0], [0.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, 3.0]])
    expected = torch.tensor([1, 1 / 3, 0, 1 / 4, 0]).double()
    torch.testing.assert_close(alignment_iou(layer, quantiles), expected)


def test_iou_of_realigned_normal_inputs():
    # [-3 s, 3 s] against the 5 % and 95 % quantile of a normal distribution, +-1.645 s.
    torch.manual_seed(0)
    layer = PWLU(4).train()
    layer.start_collecting()
    x = torch.randn(20000, 4) * torch.tensor([0.1, 1.0, 5.0, 1.0]) + torch.tensor([0, 0, 2.0, -7])
    layer(x)
    layer.realign()
    iou = alignment_iou(layer, input_quantiles(x.T))
    torch.testing.assert_close(iou, torch.full((4,), 1.645 / 3).double(), atol=0.02, rtol=0)


def test_quantiles_leave_nan_out():
    samples = torch.tensor([[1.0, 2.0, 3.0, float('nan')], [float('nan')] * 4])
    quantiles = input_quantiles(samples, (0.0, 0.5, 1.0))
    torch.testing.assert_close(quantiles[0], torch.tensor([1.0, 2.0, 3.0]).double())
    assert quantiles[1].isnan().all()
    assert alignment_iou(PWLU(2), quantiles[:, [0, 2]]).isnan().tolist() == [False, True]


def test_iou_errors():
    with pytest.raises(TypeError, match='ReLU has no left_bound'):
        alignment_iou(nn.ReLU(), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r'shape \(3, 2\), got \(2, 2\)'):
        alignment_iou(PWLU(3), torch.zeros(2, 2))


# Figure 7


@pytest.mark.parametrize('channel_dim', [None, 1, -1])
def test_evaluate_equals_the_layer(channel_dim):
    layer = learned(4, channel_dim=channel_dim)
    x = torch.linspace(-6, 6, 50).expand(4, -1)
    y = evaluate(layer, x)
    expected = layer(x.T) if channel_dim != 1 else layer(x.unsqueeze(0))[0].T
    torch.testing.assert_close(y.T.float(), expected.detach(), atol=1e-5, rtol=1e-5)
    prelu = nn.PReLU(4)
    torch.testing.assert_close(evaluate(prelu, x).float(), prelu(x.T).T.detach())


def test_evaluate_does_not_touch_the_layer():
    layer = learned().train()
    layer.start_collecting()
    evaluate(layer, torch.randn(6, 9))
    assert layer.training
    assert layer.num_batches_tracked == 0
    assert layer.rows('points').dtype == torch.float32


def test_curves_and_markers_are_those_of_the_layer():
    layer = learned(6)
    figure = plot_functions({'layer': layer}, num_functions=3)
    axes = panels_of(figure)[0]
    curves = curves_of(axes)
    assert len(curves) == 3
    for channel, xy in curves.items():
        x = torch.from_numpy(xy[:, 0]).expand(6, -1)
        torch.testing.assert_close(
            torch.from_numpy(xy[:, 1]), evaluate(layer, x)[int(channel)], atol=1e-9, rtol=0
        )
    markers = [line.get_xydata() for line in axes.get_lines() if line.get_marker() == 'o']
    bounds = {
        tuple(np.float32(b).round(4) for b in pair)
        for pair in zip(layer.left_bound.tolist(), layer.right_bound.tolist(), strict=True)
    }
    assert len(markers) == 3
    assert {tuple(m[:, 0].astype(np.float32).round(4)) for m in markers} <= bounds
    relu = next(line for line in axes.get_lines() if line.get_linestyle() == '--').get_xydata()
    np.testing.assert_allclose(relu[:, 1], relu[:, 0].clip(0))


def test_channels_are_spread_from_nearest_to_farthest_from_relu():
    layer = PWLU(9)
    layer.rows('points').data += torch.tensor([8.0, 0, 4, 1, 5, 2, 7, 3, 6]).unsqueeze(1) / 10
    figure = plot_functions({'layer': layer}, num_functions=5)
    assert list(curves_of(panels_of(figure)[0])) == ['1', '5', '2', '8', '0']
    # All where there are few, the two ends where two are wanted.
    assert len(curves_of(panels_of(plot_functions({'a': PWLU(3)}))[0])) == 3
    two = plot_functions({'layer': layer}, num_functions=2)
    assert list(curves_of(panels_of(two)[0])) == ['1', '0']


def test_layers_are_chosen_evenly():
    layers = {f'layer{i}': PWLU(2) for i in range(11)}
    figure = plot_functions(layers, max_layers=3)
    titles = [axes.get_title() for axes in panels_of(figure)]
    assert titles == [f'layer{i} (2 channels)' for i in (0, 5, 10)]
    assert '3 of 11 layers' in figure.get_suptitle()


@pytest.mark.parametrize('source', ['measured', 'running statistics', 'none'])
def test_input_distribution_behind_the_curves(source):
    layer = learned(1, num_groups=1)
    inputs = None
    if source == 'measured':
        inputs = {'layer': torch.randn(1, 3000) - 0.5}
    elif source == 'running statistics':
        layer.start_collecting()
        layer.train()(torch.randn(3000) - 0.5)
        layer.realign()
    figure = plot_functions({'layer': layer}, inputs)
    shapes = [p for axes in figure.axes for p in axes.patches]
    if source == 'none':
        assert not shapes
        return
    values, edges, _ = shapes[0].get_data()
    centers = (edges[1:] + edges[:-1]) / 2
    mean = (values * centers).sum() / values.sum()
    std = ((values * (centers - mean) ** 2).sum() / values.sum()) ** 0.5
    assert mean == pytest.approx(-0.5, abs=0.1)
    assert std == pytest.approx(1, abs=0.1)


def test_any_scalar_module_can_be_drawn():
    figure = plot_functions({'gelu': nn.GELU(), 'prelu': nn.PReLU(4)})
    x, y = curves_of(panels_of(figure)[0])['all'].T
    torch.testing.assert_close(
        torch.from_numpy(y), nn.functional.gelu(torch.from_numpy(x)), atol=1e-9, rtol=0
    )
    assert len(curves_of(panels_of(figure)[1])) == 4


# Figure 3 of the PAU paper


@pytest.mark.parametrize('version', 'ABCN')
def test_the_band_is_what_an_rpau_gives_in_training(version):
    torch.manual_seed(3)
    layer = RPAU(m=1, n=2, init='relu', version=version, alpha=0.3, num_groups=2, num_channels=2)
    for parameter in layer.parameters():
        parameter.data.uniform_(-1, 1)
    x = torch.linspace(-3, 3, 13)
    lowest, highest = noise_band(layer, x)
    seen = torch.cat([layer.train()(x.expand(20000, 2, -1)), layer.eval()(x.expand(1, 2, -1))])
    seen = seen.double()
    poles = lowest.isnan()
    assert bool(poles.any()) == (version == 'N')
    # No value is outside, and those of 20,000 draws come near the ends, but for those near poles.
    room = 0.25 * (highest - lowest) + 1e-6
    for found, end, sign in ((seen.amin(0), lowest, 1), (seen.amax(0), highest, -1)):
        gap = sign * (found - end)[~poles]
        assert (gap > -1e-6).all()
        assert version == 'N' or (gap < room[~poles]).all()


def test_rpau_is_drawn_with_its_band():
    figure = plot_functions({'r': RPAU(alpha=0.1), 'p': PAU(), 'n': RPAU(version='N', alpha=0.9)})
    random, plain, poles = panels_of(figure)
    band = random.collections[0].get_paths()[0].vertices
    lowest, highest = noise_band(RPAU(alpha=0.1), torch.tensor([3.0]))
    at_3 = band[np.abs(band[:, 0] - 3).argsort()[:2], 1]
    np.testing.assert_allclose(sorted(at_3), [lowest.item(), highest.item()], rtol=0.02)
    assert not plain.collections
    assert np.isfinite(poles.get_ylim()).all()


def test_functions_errors():
    with pytest.raises(ValueError, match='no scalar activation'):
        plot_functions(nn.Linear(2, 2))
    with pytest.raises(ValueError, match='max_layers must be a positive integer, got 0'):
        plot_functions(PWLU(2), max_layers=0)


# Figure 6


def test_alignment_histograms_count_channels():
    layers = {'good': PWLU(4), 'bad': PWLU(2)}
    inputs = {
        'good': torch.linspace(-3.3, 3.3, 1000).expand(4, -1),
        'bad': torch.linspace(10, 20, 1000).expand(2, -1),
    }
    figure = plot_alignment(layers, inputs)
    whole, rows = panels_of(figure)[:2]
    assert whole.get_title() == 'all 6 channels'
    shares = whole.patches[0].get_data().values
    assert shares[0] == pytest.approx(2 / 6)
    assert shares[-1] == pytest.approx(4 / 6)
    assert [t.get_text() for t in rows.get_yticklabels()] == ['good (4)', 'bad (2)']
    mesh = rows.collections[0].get_array().reshape(2, -1)
    assert mesh[0, -1] == 1
    assert mesh[1, 0] == 1
    assert mesh.sum() == pytest.approx(2)


def test_alignment_needs_inputs_and_bounds():
    with pytest.raises(ValueError, match='no layer with bounds has a recorded input'):
        plot_alignment({'a': PWLU(2)}, {})
    with pytest.raises(ValueError, match='no layer with bounds'):
        plot_alignment({'a': nn.GELU()}, {'a': torch.randn(1, 9)})


def test_files_are_readable_pictures(tmp_path):
    layers = {f'backbone.layer{i}.very.long.path.of.a.layer.act': learned(3 + i) for i in range(20)}
    inputs = {name: torch.randn(layer.num_channels, 100) for name, layer in layers.items()}
    for name, figure in (
        ('functions', plot_functions(layers, inputs)),
        ('alignment', plot_alignment(layers, inputs)),
    ):
        figure.savefig(tmp_path / f'{name}.png')
        with Image.open(tmp_path / f'{name}.png') as image:
            assert image.width > 700
            assert np.asarray(image.convert('L')).std() > 10


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never():
    program = (
        'import sys, torch; import mmact.visualization as v; from mmact.activations import PWLU;'
        'assert "matplotlib" not in sys.modules;'
        'v.plot_functions(PWLU(2)); v.plot_alignment(PWLU(2), {"": torch.randn(2, 9)});'
        'assert "matplotlib.pyplot" not in sys.modules'
    )
    # mmact registers itself with MMEngine, which imports pyplot, so it is kept out of the way.
    hide = 'import sys; sys.modules["mmengine"] = None;'
    result = subprocess.run(
        [sys.executable, '-c', hide + program],
        capture_output=True,
        text=True,
        check=False,
        env={'PYTHONPATH': ':'.join(sys.path), 'PATH': ''},
    )
    assert result.returncode == 0, result.stderr
