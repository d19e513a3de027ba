# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Converted models where models are used: traced, distributed, averaged, in inferencers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn

import mmact
from mmact.activations import PWLU, Activation

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
models = pytest.importorskip('torchvision.models')


def converted():
    torch.manual_seed(0)
    model, x = models.resnet18(num_classes=5), torch.randn(2, 3, 64, 64)
    mmact.convert(model, dict(type='PWLU'), example=x)
    return model, x


def test_symbolic_trace():
    """torch.fx sees the rewritten calls; the activations are leaves."""
    model, x = converted()
    model.eval()
    traced = torch.fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == 'call_module']
    acts = [name for name, m in model.named_modules() if isinstance(m, PWLU)]
    assert sorted(n for n in called if n in acts) == sorted(acts)
    assert torch.equal(traced(x), model(x))


class Block(nn.Module):
    """One ReLU at two places, and a functional one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        return F.relu(self.relu(self.conv2(self.relu(self.conv1(x)))) - 0.1)


def train(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def block_and_batches():
    torch.manual_seed(0)
    model, batches = Block(), torch.randn(3, 4, 3, 8, 8)
    assert len(mmact.convert(model, dict(type='PWLU'), example=batches[0]).replaced) == 3
    return model, batches


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    store = f'file://{folder / "store"}'
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    model, batches = block_and_batches()
    # A parameter without a gradient would make DDP raise in the second iteration.
    train(nn.parallel.DistributedDataParallel(model), [x.chunk(2)[rank] for x in batches])
    torch.save(model.state_dict(), folder / f'{rank}.pth')
    distributed.destroy_process_group()


def test_distributed(tmp_path):
    """Two processes with half of each batch learn as one, all that was converted."""
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), 2)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    model, batches = block_and_batches()
    start = copy.deepcopy(model.state_dict())
    train(model, batches)
    for name, value in model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, msg=lambda text, n=name: f'{n}: {text}')
    assert all(not torch.equal(start[n], first[n]) for n in start if n.endswith('points'))


def test_averaged_by_mmengine():
    ema = pytest.importorskip('mmengine.model').ExponentialMovingAverage
    model, x = converted()
    average = ema(model, momentum=0.5)
    average.update_parameters(model)  # the first one copies
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    average.update_parameters(model)
    model.eval()
    average.eval()
    torch.testing.assert_close(average(x), average.module(x))
    assert not torch.equal(average(x), model(x))
    acts = [[m for m in n.modules() if isinstance(m, PWLU)] for n in (average, model)]
    assert all(not torch.equal(a.points, b.points) for a, b in zip(*acts, strict=True))


def test_ema_hook(tmp_path):
    """EMAHook averages what was converted, tests with it and writes it into checkpoints."""
    engine = pytest.importorskip('mmengine')

    class Model(engine.model.BaseModel):
        def __init__(self):
            super().__init__()
            self.block = block_and_batches()[0]

        def forward(self, *inputs, mode='tensor'):
            loss = self.block(torch.stack(inputs)).square().mean()
            return dict(loss=loss) if mode == 'loss' else loss

    model = Model()
    start = model.block.relu.points.detach().clone()
    runner = engine.runner.Runner(
        model,
        str(tmp_path),
        train_dataloader=dict(
            dataset=list(torch.randn(6, 3, 8, 8)), sampler=dict(type='DefaultSampler'), batch_size=2
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=None),
        custom_hooks=[dict(type='EMAHook', momentum=0.5)],
        experiment_name='ema',
    )
    runner.train()
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    # The file has the average in the model's place, which is what is tested and deployed.
    average, learned = saved['state_dict'], saved['ema_state_dict']
    for name in ('block.relu.points', 'block.relu_2.points', 'block.relu_3.points'):
        assert not torch.equal(average[name], learned[f'module.{name}']), name
        assert torch.equal(learned[f'module.{name}'], model.get_parameter(name)), name
    assert not torch.equal(average['block.relu.points'], start)
    other = Model()
    other.load_state_dict(average)
    assert torch.equal(other.block.relu.points, average['block.relu.points'])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


@pytest.mark.filterwarnings('ignore')
def test_det_inferencer(image):
    apis = pytest.importorskip('mmdet.apis')
    config = CONFIGS / 'conversion/rtmdet_tiny-pwlu_8xb32-300e_coco.py'
    inferencer = apis.DetInferencer(str(config), None, device='cpu', show_progress=False)
    assert any(isinstance(m, PWLU) for m in inferencer.model.modules())
    found = inferencer(image, no_save_pred=True, no_save_vis=True)
    assert 'bboxes' in found['predictions'][0]


@pytest.mark.filterwarnings('ignore')
def test_seg_inferencer(image):
    apis = pytest.importorskip('mmseg.apis')
    config = CONFIGS / 'conversion/segformer_mit-b0-ditac_8xb2-160k_ade20k-512x512.py'
    inferencer = apis.MMSegInferencer(str(config), device='cpu')
    assert any(isinstance(m, Activation) for m in inferencer.model.modules())
    assert inferencer(image, return_datasamples=True).pred_sem_seg.data.shape[-2:] == (64, 96)


@pytest.mark.filterwarnings('ignore')
def test_pose_inferencer(image, tmp_path):
    apis = pytest.importorskip('mmpose.apis')
    config = tmp_path / 'td-hm_mobilenetv2-pwlu_coco.py'
    config.write_text(
        "_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/"
        "td-hm_mobilenetv2_8xb64-210e_coco-256x192.py'\n"
        "custom_imports = dict(imports=['mmact'], allow_failed_imports=False)\n"
        "model = dict(type='mmact.Converted', original='TopdownPoseEstimator', "
        "act_cfg=dict(type='PWLU'), backbone=dict(init_cfg=None))\n"
    )
    inferencer = apis.MMPoseInferencer(str(config), det_model='whole_image', device='cpu')
    model = inferencer.inferencer.model
    assert sum(isinstance(m, PWLU) for m in model.modules()) > 30
    found = next(inferencer(image))
    assert len(found['predictions'][0][0]['keypoints']) == 17
