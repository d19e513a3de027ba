# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Converted models where models are used: traced, distributed, averaged, in inferencers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, Activation) or super().is_leaf_module(module, name)

    model, x = converted()
    model.eval()
    graph = Tracer().trace(model)
    called = [node.target for node in graph.nodes if node.op == 'call_module']
    acts = [name for name, m in model.named_modules() if isinstance(m, PWLU)]
    assert sorted(n for n in called if n in acts) == sorted(acts)
    assert torch.equal(torch.fx.GraphModule(model, graph)(x), model(x))


def test_distributed(tmp_path):
    """No parameter is left out of the reduction: DDP would say so in the second iteration."""
    from torch import distributed

    model, x = converted()
    plain = copy.deepcopy(model)
    store = f'file://{tmp_path / "store"}'
    distributed.init_process_group('gloo', init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            wrapped.zero_grad()
            wrapped(x).sum().backward()
    finally:
        distributed.destroy_process_group()
    for _ in range(2):
        plain.zero_grad()
        plain(x).sum().backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f'{name}: {text}')


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
