# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MMDetection's ResNet with a configurable activation, a separate one at every call site."""

from mmdet.models.backbones import resnet as mmdet_resnet

from ...registry import MODELS
from ._resnet import BasicBlockMixin, BottleneckMixin, ResNetMixin


class BasicBlock(BasicBlockMixin, mmdet_resnet.BasicBlock):
    """MMDetection's BasicBlock with activations ``act1`` and ``act2``."""


class Bottleneck(BottleneckMixin, mmdet_resnet.Bottleneck):
    """MMDetection's Bottleneck with activations ``act1``, ``act2`` and ``act3``."""


@MODELS.register_module()
class ResNet(ResNetMixin, mmdet_resnet.ResNet):
    """ResNet backbone whose activations are set by ``act_cfg``.

    The stem has one activation (three with ``deep_stem=True``), a BasicBlock two and a Bottleneck
    three, each a module of its own. With ``act_cfg=dict(type='ReLU')`` the outputs are those of
    MMDetection's ResNet. All keys of its state_dict are there; parameters of activations are
    additional keys (``act1`` in the stem, ``layer<i>.<j>.act<k>`` in the blocks).

    ``frozen_stages`` freezes the activations of the stem and of the frozen stages too.

    Args:
        depth: 10 (a BasicBlock in each stage), 18, 34, 50, 101 or 152.
        act_cfg: Config of the activations; ReLU by default.
        **kwargs: All other arguments of MMDetection's ResNet.

    Raises:
        KeyError: If the depth or the type of the activation is unknown.

    Example:
        >>> ResNet(18, act_cfg=dict(type='PWLU')).layer1[0].act2.num_channels
        64
    """

    blocks = {mmdet_resnet.BasicBlock: BasicBlock, mmdet_resnet.Bottleneck: Bottleneck}
    arch_settings = {
        # Of the Dynamic ReLU paper, Table 5.
        10: (mmdet_resnet.BasicBlock, (1, 1, 1, 1)),
        **mmdet_resnet.ResNet.arch_settings,
    }
