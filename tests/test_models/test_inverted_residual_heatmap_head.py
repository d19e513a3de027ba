# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The key-point head: its layout, loss and prediction on MMPose's data, activations, errors."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmpose')

from mmengine.structures import InstanceData, PixelData
from mmpose.codecs import MSRAHeatmap
from mmpose.models.heads import HeatmapHead
from mmpose.structures import PoseDataSample

from mmact.activations import DyReLUC
from mmact.models.heads.inverted_residual_heatmap_head import InvertedResidualHeatmapHead
from mmact.registry import MODELS

FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
CODEC = dict(type='MSRAHeatmap', input_size=(64, 64), heatmap_size=(16, 16), sigma=1)
SMALL = ((2, 5, 1, 16), (1, 5, 3, 16), (2, 3, 3, 8), (2, 3, 3, 8))


def small_head(**options) -> InvertedResidualHeatmapHead:
    torch.manual_seed(0)
    options = {'blocks': SMALL, 'decoder': CODEC, **options}
    return InvertedResidualHeatmapHead(in_channels=24, out_channels=17, **options)


def samples(count: int = 2) -> list[PoseDataSample]:
    """People with key points and heat maps, as MMPose's pipeline packs them."""
    codec = MSRAHeatmap(**{key: value for key, value in CODEC.items() if key != 'type'})
    rng = np.random.default_rng(0)
    packed = []
    for _ in range(count):
        keypoints = rng.uniform(4, 60, (1, 17, 2)).astype(np.float32)
        visible = np.ones((1, 17), dtype=np.float32)
        encoded = codec.encode(keypoints, visible)
        sample = PoseDataSample(metainfo=dict(flip_indices=FLIP))
        sample.gt_instances = InstanceData(keypoints=keypoints)
        sample.gt_instance_labels = InstanceData(
            keypoint_weights=torch.from_numpy(encoded['keypoint_weights'])
        )
        sample.gt_fields = PixelData(heatmaps=torch.from_numpy(encoded['heatmaps']))
        packed.append(sample)
    return packed


def features(count: int = 2) -> tuple[torch.Tensor, ...]:
    """Two feature maps, the last of which is the head's input."""
    torch.manual_seed(1)
    return torch.randn(count, 3, 4, 4), torch.randn(count, 24, 2, 2)


def test_default_layout():
    """16x12, 32x24 and 64x48 for a feature map of 8x6, as the docstring says."""
    head = InvertedResidualHeatmapHead(in_channels=1280, out_channels=17).eval()
    convs = []

    def record(conv, args, out):
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.groups)
        convs.append((*sizes, *out.shape[2:]))

    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    assert head((torch.randn(1, 1280, 8, 6),)).shape == (1, 17, 64, 48)
    assert convs == [
        (1280, 1280, 5, 1280, 16, 12),
        (1280, 256, 1, 1, 16, 12),
        (256, 768, 1, 1, 16, 12),
        (768, 768, 5, 768, 16, 12),
        (768, 256, 1, 1, 16, 12),
        (256, 768, 1, 1, 32, 24),
        (768, 768, 3, 768, 32, 24),
        (768, 128, 1, 1, 32, 24),
        (128, 384, 1, 1, 64, 48),
        (384, 384, 3, 384, 64, 48),
        (384, 128, 1, 1, 64, 48),
        (128, 17, 1, 1, 64, 48),
    ]
    relus = [m for m in head.modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 7
    assert [m.scale_factor for m in head.modules() if isinstance(m, nn.Upsample)] == [2.0] * 3
    assert isinstance(head, HeatmapHead)


def test_initialisation():
    head = InvertedResidualHeatmapHead(576, 17, act_cfg=dict(type='DyReLUC'))
    head.init_weights()
    assert head.final_layer.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not head.final_layer.bias.any()
    conv = head.conv_layers[2].expand_conv.conv
    assert conv.weight.std().item() == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.05)
    for act in (m for m in head.modules() if isinstance(m, DyReLUC)):
        assert not act.fc2_weight.any()
        assert act.fc1_weight.any()


@pytest.mark.parametrize('kind', [None, 'DyReLUA', 'DyReLUB', 'DyReLUC', 'PWLU'])
def test_loss_trains_everything(kind):
    act_cfg = None if kind is None else dict(type=kind)
    head = small_head(act_cfg=act_cfg, with_cp=kind == 'DyReLUB').train()
    head.init_weights()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    inputs, data, history = features(), samples(), []
    inputs[1].requires_grad_()
    for _ in range(15):
        losses = head.loss(inputs, data)
        assert set(losses) == {'loss_kpt', 'acc_pose'}
        optimizer.zero_grad()
        losses['loss_kpt'].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        optimizer.step()
        history.append(losses['loss_kpt'].item())
    assert inputs[1].grad.any()
    assert history[-1] < 0.8 * history[0]


def test_loss_is_that_of_heatmap_head():
    """On the same heat maps."""
    head = small_head().eval()
    inputs, data = features(), samples()
    theirs = HeatmapHead(17, 17, deconv_out_channels=None, final_layer=None, decoder=CODEC)
    heat_maps = head(inputs)
    expected = theirs.loss((heat_maps,), data)
    assert {k: v.item() for k, v in head.loss(inputs, data).items()} == {
        k: v.item() for k, v in expected.items()
    }


def test_prediction():
    """Key points are those that the codec decodes, with flip test and without."""
    head = small_head().eval()
    inputs, flipped, data = features(), features(), samples()
    with torch.no_grad():
        heat_maps = head(inputs)
        predictions, fields = head.predict(inputs, data, dict(output_heatmaps=True))
        averaged = head.predict(
            [inputs, flipped], data, dict(flip_test=True, flip_mode='heatmap', shift_heatmap=False)
        )
    assert all(torch.equal(f.heatmaps, h) for f, h in zip(fields, heat_maps, strict=True))
    keypoints, scores = head.decoder.decode(heat_maps[0].numpy())
    assert np.array_equal(predictions[0].keypoints, keypoints)
    assert np.array_equal(predictions[0].keypoint_scores, scores)
    mean = (heat_maps + heat_maps.flip(3)[:, FLIP]) / 2
    keypoints, _ = head.decoder.decode(mean[0].numpy())
    assert np.array_equal(averaged[0].keypoints, keypoints)


def test_positions_and_hyper_input():
    head = small_head(act_cfg=dict(type='DyReLUC'))
    assert sum(isinstance(m, DyReLUC) for m in head.modules()) == 11
    assert not any(isinstance(m, nn.ReLU) for m in head.modules())
    head = small_head(act_cfg=dict(type='DyReLUC'), act_positions=('A2',))
    assert sum(isinstance(m, DyReLUC) for m in head.modules()) == 4
    assert sum(isinstance(m, nn.ReLU) for m in head.modules()) == 3
    head = small_head(act_cfg=dict(type='DyReLUB'), hyper_input=dict(A1='conv', A3='conv'))
    block = head.conv_layers[2]
    names = ('expand_conv', 'depthwise_conv', 'linear_conv')
    seen = [getattr(block, name).activate.seen_channels for name in names]
    assert seen == [16, 48, 48]
    assert head.eval()(features()).shape == (2, 17, 16, 16)


def test_checkpoints_resume():
    head, other = (small_head(act_cfg=dict(type='DyReLUC')).eval() for _ in range(2))
    for p in head.parameters():
        nn.init.normal_(p, std=0.2)
    assert not torch.equal(head(features()), other(features()))
    other.load_state_dict(head.state_dict())
    assert torch.equal(head(features()), other(features()))


def test_builds_from_a_pose_config():
    estimator = MODELS.build(
        dict(
            type='mmpose.TopdownPoseEstimator',
            data_preprocessor=dict(type='mmpose.PoseDataPreprocessor'),
            backbone=dict(type='mmact.MobileNetV2', widen_factor=0.35),
            head=dict(
                type='mmact.InvertedResidualHeatmapHead',
                in_channels=1280,
                out_channels=17,
                blocks=SMALL,
                act_cfg=dict(type='DyReLUC'),
                loss=dict(type='KeypointMSELoss', use_target_weight=True, loss_weight=2.0),
                decoder=CODEC,
            ),
            _scope_='mmpose',
        )
    )
    assert isinstance(estimator.head, InvertedResidualHeatmapHead)
    losses = estimator.loss(torch.randn(2, 3, 64, 64), samples())
    losses['loss_kpt'].backward()
    assert all(p.grad is not None for p in estimator.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=(24, 24)), r'in_channels must be the number .* got \(24, 24\)'),
        (
            dict(blocks=[(2, 5, 1)]),
            r'each of blocks must be \(up-sampling factor, .* got \(2, 5, 1\)',
        ),
        (dict(blocks=[(2, 5, 1.5, 8)]), 'each of blocks must be .* positive integers'),
        (dict(blocks=[(2, 4, 1, 8)]), r'the kernel size, .* must be odd, got \(2, 4, 1, 8\)'),
        (
            dict(act_cfg=dict(type='DyReLUC'), act_positions=('stem',)),
            r"act_positions must be a sequence of some of \('A1', 'A2', 'A3'\), got",
        ),
    ],
)
def test_errors(options, message):
    options = {'in_channels': 24, 'out_channels': 17, **options}
    with pytest.raises(ValueError, match=f'^InvertedResidualHeatmapHead: {message}'):
        InvertedResidualHeatmapHead(**options)
