# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The key-point head of the Dynamic ReLU paper: up-sampling and inverted residual blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmpose.models.heads import HeatmapHead
from torch import nn

from ...ops._arguments import indices, integer, positive, refuse, sequence
from ...registry import MODELS
from ..backbones._inverted_residual import BLOCK_POSITIONS, InvertedResidual, Placement


@MODELS.register_module()
class InvertedResidualHeatmapHead(HeatmapHead):
    """MMPose head of bilinear up-sampling and MobileNetV2's inverted residual blocks.

    Chen et al., Dynamic ReLU, ECCV 2020, section 5.3, use "upsampling and four inverted residual
    bottleneck blocks" and print no sizes. The default layout is reconstructed: among those tried
    it is the one that gives the multiply-adds of all four ReLU rows of Table 10 within 0.35 % and
    their parameters to the printed digit. For an image of 256x192 it is

    - 16x12, after x2: depthwise 5x5 on the input, no expansion, to 256 channels; then 256-768-256
      with 5x5,
    - 32x24, after x2: 256-768-128 with 3x3,
    - 64x48, after x2: 128-384-128 with 3x3; then a 1x1 convolution to the heat maps.

    The backbone's last 1x1 convolution is the input, so that ``in_channels`` is 1280 for
    MobileNetV2, 960 for MobileNetV3-Large and 576 for Small.

    Loss, prediction and decoding are those of MMPose's HeatmapHead. Of several feature maps the
    last one is taken. Positions of activations in a block are named ``'A1'``, ``'A2'`` and
    ``'A3'``: after the 1x1 expansion, the depthwise convolution and the 1x1 projection.

    Args:
        in_channels: Channels of the input.
        out_channels: Number of heat maps; 17 for COCO.
        blocks: Up-sampling factor before it, kernel size, expansion ratio and output channels of
            each block. All have stride 1.
        act_cfg: Config of the activations; ReLU by default.
        act_positions: Positions at which ``act_cfg`` stands; at the others stand ReLU (A1, A2) and
            nothing (A3). None: all three if ``act_cfg`` is a Dynamic ReLU, else A1 and A2.
        hyper_input: What the hyper function of a Dynamic ReLU sees: ``'own'``, its own input, as in
            the paper, or ``'conv'``, the input of the convolution before it; or a dict of these by
            position.
        conv_cfg: Config of the blocks' convolutions.
        norm_cfg: Config of the normalisation layers; batch normalisation by default.
        with_cp: Whether to recompute blocks in backward in place of keeping their tensors.
        final_layer: Arguments of the last convolution, as in HeatmapHead.
        loss: Config of the loss; KeypointMSELoss with target weights by default.
        decoder: Config of the codec that turns heat maps into key points.
        init_cfg: Config of the initialisation; by default Kaiming's for the blocks and a normal
            distribution of standard deviation 0.001 for the last convolution.

    Shape:
        Input: (B, in_channels, H, W), the last of a tuple. Output: (B, out_channels, 8 H, 8 W) by
        default.

    Raises:
        ValueError: If an argument is out of range.
        KeyError: If the type of the activation is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: Sequence[tuple[int, int, int, int]] = (
            (2, 5, 1, 256),
            (1, 5, 3, 256),
            (2, 3, 3, 128),
            (2, 3, 3, 128),
        ),
        act_cfg: dict | None = None,
        act_positions: Sequence[str] | None = None,
        hyper_input: str | Mapping[str, str] = 'own',
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        final_layer: dict | None = None,
        loss: dict | None = None,
        decoder: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        owner = 'InvertedResidualHeatmapHead'
        in_channels = integer(
            owner, 'in_channels', in_channels, 1, wanted='the number of channels of the last map'
        )
        (out_channels,) = positive(owner, out_channels=out_channels)
        blocks = [_checked(owner, block) for block in sequence(owner, 'blocks', blocks)]
        acts = Placement(owner, act_cfg, act_positions, hyper_input, BLOCK_POSITIONS)
        super().__init__(
            in_channels=blocks[-1][3] if blocks else in_channels,
            out_channels=out_channels,
            deconv_out_channels=None,
            deconv_kernel_sizes=None,
            final_layer=final_layer or dict(kernel_size=1),
            loss=loss or dict(type='KeypointMSELoss', use_target_weight=True),
            decoder=decoder,
            init_cfg=init_cfg,
        )
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        for scale, kernel_size, ratio, width in blocks:
            if scale > 1:
                layers.append(nn.Upsample(scale_factor=scale, mode='bilinear', align_corners=False))
            layers.append(
                InvertedResidual(
                    in_channels,
                    in_channels * ratio,
                    width,
                    acts,
                    dict(type='ReLU'),
                    kernel_size,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg or dict(type='BN'),
                    with_cp=with_cp,
                )
            )
            in_channels = width
        # HeatmapHead calls it between its transposed convolutions, of which there are none here,
        # and the last layer.
        self.conv_layers = nn.Sequential(*layers)

    @property
    def default_init_cfg(self) -> list[dict]:
        """Kaiming's for the blocks; HeatmapHead's for the layer that makes heat maps."""
        heat_maps = dict(type='Normal', name='final_layer', std=0.001)
        return [
            dict(type='Kaiming', layer=['Conv2d'], override=heat_maps),
            dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
        ]


def _checked(owner: str, block: Sequence[int]) -> tuple[int, int, int, int]:
    name = 'each of blocks'
    wanted = (
        '(up-sampling factor, kernel size, expansion ratio, output channels), positive integers'
    )
    values = indices(owner, name, block, 1, wanted=wanted)
    if len(values) != 4:
        refuse(owner, name, wanted, block)
    scale, kernel_size, ratio, width = values
    if kernel_size % 2 == 0:
        refuse(owner, 'the kernel size, second in each of blocks,', 'odd', block)
    return scale, kernel_size, ratio, width
