# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PairRecorder, spread, plot_dynamics and tools/analysis_tools/plot_dynamics.py."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

from mmact.activations import PWLU, DyReLUB, Maxout
from mmact.visualization import PairRecorder, activation_layers, plot_dynamics, spread

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/plot_dynamics.py'
MODULE = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset


@MODELS.register_module(force=True)
class DynamicsModel(BaseModel):
    def __init__(self, act_cfg):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.SyncBatchNorm(8), MODELS.build(act_cfg),
            nn.Conv2d(8, 4, 1), nn.ReLU(inplace=True))

    def forward(self, inputs, mode):
        assert mode == 'predict' and not self.training
        return list(self.backbone(inputs))


@DATASETS.register_module(force=True)
class DynamicsDataset(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(1, 12, 12, generator=generator) + index - 6)
"""
CONFIG = """
custom_imports = dict(imports=['dynamics_module', 'mmact'])
default_scope = 'mmengine'
model = dict(type='DynamicsModel', act_cfg=dict(type='DyReLUB', reduction=1))
val_dataloader = dict(
    batch_size=2,
    dataset=dict(type='DynamicsDataset'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
"""


def lively(layer: DyReLUB) -> DyReLUB:
    """A Dynamic ReLU as after a training: the second linear layer is not zero any more."""
    nn.init.normal_(layer.fc2_weight, std=3.0)
    return layer


@pytest.mark.parametrize('layer', [nn.ReLU(inplace=True), nn.Hardswish(), PWLU(4)])
def test_pairs_are_inputs_with_their_outputs(layer):
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = dict(zip(x.flatten().tolist(), layer(x.clone()).flatten().tolist(), strict=True))
    with PairRecorder({'layer': layer}, max_values=200) as recorder:
        layer(x[:1].clone())
        layer(x[1:].clone())
        layer(x[:0])
    pairs = recorder.samples['layer']
    assert pairs.shape == (2, 200)
    assert all(expected[a] == b for a, b in pairs.T.tolist())


@pytest.mark.parametrize(('dim', 'shape'), [(None, (2, 3, 5)), (-1, (2, 5, 3))])
def test_one_channel(dim, shape):
    x = torch.arange(3.0).view([3 if n == 3 else 1 for n in shape]).expand(shape)
    layer = DyReLUB(3, channel_dim=dim)
    with PairRecorder({'layer': layer}, channel=2) as recorder:
        layer(x)
    assert (recorder.samples['layer'] == 2).all()
    with PairRecorder({'layer': layer}, channel=3), pytest.raises(ValueError, match='0 to 2'):
        layer(x)


def test_watching_changes_nothing():
    torch.manual_seed(0)
    layer, x = lively(DyReLUB(4)), torch.randn(2, 4, 6, 6)
    expected, state = layer(x), torch.get_rng_state()
    with PairRecorder({'layer': layer}, max_values=10):
        assert torch.equal(layer(x), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_finds_activations_but_not_what_is_inside_them():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        nn.ReLU(),
        PWLU(),
        nn.MultiheadAttention(2, 1),
        nn.Sequential(DyReLUB(2)),
    )
    net[4][0].inner = nn.ReLU()
    assert list(activation_layers(net)) == ['1', '2', '4.0']


def test_a_layer_that_changes_the_shape_is_refused():
    layer = Maxout(8)
    with PairRecorder({'here': layer}), pytest.raises(ValueError, match="layer 'here' turns shape"):
        layer(torch.randn(1, 8, 2, 2))


def test_spread_tells_dynamic_from_static():
    torch.manual_seed(0)
    x = torch.randn(64, 4, 12, 12) * torch.rand(64, 1, 1, 1) + torch.randn(64, 4, 1, 1)
    shares = {}
    for name, layer in dict(
        relu=nn.ReLU(), start=DyReLUB(4), dynamic=lively(DyReLUB(4)), prelu=nn.PReLU(4)
    ).items():
        if name == 'prelu':
            layer.weight.data = torch.tensor([-1.0, 0, 1, 2])
        for channel in (None, 1):
            with PairRecorder({'layer': layer}, channel=channel) as recorder, torch.no_grad():
                layer(x)
            shares[name, channel] = spread(recorder.samples['layer'])
    for static in ('relu', 'start'):
        assert shares[static, None] < 1e-3
    # 0.07 measured for the one channel.
    assert shares['dynamic', None] > 0.03
    assert shares['dynamic', 1] > 0.03
    # Functions of different channels differ, but one channel's is a curve.
    assert shares['prelu', None] > 0.1
    assert shares['prelu', 1] < 1e-3


def test_spread_is_the_unexplained_variance():
    torch.manual_seed(0)
    x, noise = torch.randn(2, 200_000)
    # Var(3x) = 9 and Var(noise) = 1; a tenth remains. 0.0999 measured.
    assert spread(torch.stack([x, 3 * x + noise])) == pytest.approx(0.1, abs=0.002)
    assert spread(torch.stack([x, 0 * x])) == 0
    with pytest.raises(ValueError, match='at least 3'):
        spread(torch.full((2, 9), torch.nan))


def test_figure_draws_density_and_both_lines():
    samples = {str(i): torch.randn(2, 500) for i in range(5)}
    figure = plot_dynamics(samples, max_layers=3)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title().split()[0] for axes in panels] == ['0', '2', '4']
    for axes in panels:
        assert [line.get_slope() for line in axes.lines] == [1, -1]
        assert axes.collections[0].get_array().sum() > 450
    assert '3 of 5 layers' in figure.get_suptitle()
    with pytest.raises(ValueError, match='no layer received an input'):
        plot_dynamics({})
    with pytest.raises(ValueError, match='max_layers must be a positive integer, got 0'):
        plot_dynamics(samples, max_layers=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with config.py and the checkpoint.pth of a model that is dynamic."""
    (tmp_path / 'dynamics_module.py').write_text(MODULE)
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile('config.py').model)
    lively(model.backbone[2])
    torch.save({'state_dict': model.state_dict()}, 'checkpoint.pth')
    return tmp_path


@pytest.fixture
def run(run_tool):
    """Runs the tool in this process: (exit status, standard output, standard error)."""
    return run_tool(TOOL)


@pytest.mark.parametrize('checkpoint', [[], ['checkpoint.pth']])
def test_picture_of_a_config(folder, run, monkeypatch, checkpoint):
    drawn = {}

    def draw(samples, *args):
        drawn.update(samples)
        return plot_dynamics(samples, *args)

    monkeypatch.setattr(run.tool, 'plot_dynamics', draw)
    status, out, err = run('config.py', *checkpoint, '--out', folder / 'deep' / 'picture.png')
    assert status == 0, err
    assert out.split() == [str(folder / 'deep' / 'picture.png')]
    with Image.open(out.strip()) as image:
        assert image.width > 500
    # All of the data went through: 12 images of 10 x 10 pixels in 8 channels.
    assert {name: pairs.size(1) for name, pairs in drawn.items()} == {
        'backbone.2': 12 * 8 * 100,
        'backbone.4': 12 * 4 * 100,
    }
    assert (spread(drawn['backbone.2']) > 0.02) == bool(checkpoint)
    assert spread(drawn['backbone.4']) < 1e-3


def test_choices(folder, run):
    options = ('--layers', 'backbone.2', '--channel', 3, '--data', 1, '--out', 'one.png')
    assert run('config.py', 'checkpoint.pth', *options)[0] == 0
    assert (folder / 'one.png').exists()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.py'], 'config missing.py does not exist'),
        (['config.py', 'missing.pth'], 'checkpoint missing.pth does not exist'),
        (['config.py', '--layers', 'neck'], 'no layer matches --layers neck; there are'),
        (['config.py', '--data', '0'], '--data must be at least 1, got 0'),
        (['config.py', '--max-layers', '0'], '--max-layers must be at least 1, got 0'),
        (['config.py', '--channel', '8'], 'channel must be 0 to 7'),
        (['config.py', '--cfg-options', 'val_dataloader=None'], 'needs a val_dataloader'),
    ],
)
def test_errors_are_one_line(folder, run, args, message):
    status, out, err = run(*args)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()[-1:]) == 1
    assert '.png' not in out
