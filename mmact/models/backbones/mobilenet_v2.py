# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2 with any activation, static or dynamic, at any position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...registry import MODELS
from . import _inverted_residual
from ._inverted_residual import (
    BLOCK_POSITIONS,
    ConvAct,
    Placement,
    check_widen_factor,
    make_divisible,
)
from ._mobilenet import MobileNet


class InvertedResidual(_inverted_residual.InvertedResidual):
    """The block under the names that MMPretrain, MMPose and MMSegmentation give its layers.

    MMDetection's names are taken, too, when a checkpoint is loaded.
    """

    def _register(self, layers: dict[str, nn.Module]) -> tuple[str, ...]:
        self.conv = nn.Sequential(*layers.values())
        self._names = tuple(layers)
        return ('conv',)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        for i, name in enumerate(self._names):
            theirs = f'{prefix}{name}.'
            for key in [key for key in state_dict if key.startswith(theirs)]:
                state_dict[f'{prefix}conv.{i}.{key[len(theirs) :]}'] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@MODELS.register_module()
class MobileNetV2(MobileNet):
    """MobileNetV2 backbone (Sandler et al., CVPR 2018) whose activations are set by ``act_cfg``.

    Each activation is a module of its own. All keys of the state_dict of MMPretrain's, MMPose's
    and MMSegmentation's MobileNetV2 are there, and MMDetection's are understood when loading;
    parameters of activations are additional keys (``conv1.activate``, ``conv2.activate``,
    ``layer<i>.<j>.conv.<k>.activate``). With static activations the outputs are theirs.

    Positions are named ``'stem'`` (after the first convolution), ``'A1'``, ``'A2'``, ``'A3'``
    (after the 1x1 expansion, the depthwise convolution and the 1x1 projection of every block) and
    ``'last'`` (after the last 1x1 convolution).

    Args:
        widen_factor: Width multiplier; above 1 it widens the last convolution, too.
        act_cfg: Config of the activations; None for the original ReLU6.
        act_positions: Positions at which ``act_cfg`` stands; at the others stands what the original
            has: ReLU6, and nothing at A3. None: all positions if ``act_cfg`` is a Dynamic ReLU
            (section 5.1 of its paper), else all but A3.
        hyper_input: What the hyper function of a Dynamic ReLU sees: ``'own'``, its own input, as in
            the paper, or ``'conv'``, the input of the convolution before it; or a dict of these by
            position.
        out_indices: Stages whose outputs are wanted: 0 to 6 for ``layer1`` to ``layer7``, 7 for the
            last convolution, ``conv2``.
        frozen_stages: Last stage that does not learn: 0 for the stem, i for ``layer<i>``; -1 for
            none. The last convolution always learns, as in MMPose's.
        conv_cfg: Config of the convolutions.
        norm_cfg: Config of the normalisation layers; batch normalisation by default.
        norm_eval: Whether batch normalisation stays in evaluation mode.
        with_cp: Whether to recompute blocks in backward in place of keeping their tensors.
        init_cfg: Config of the initialisation; Kaiming's for convolutions by default.

    Raises:
        ValueError: If an argument is out of range.
        KeyError: If the type of the activation is unknown.

    Example:
        >>> net = MobileNetV2(0.5, act_cfg=dict(type='DyReLUB'))
        >>> net(torch.randn(2, 3, 256, 192))[0].shape
        torch.Size([2, 1280, 8, 6])
    """

    #: Expansion ratio, channels, number of blocks and stride of each stage (Table 2).
    arch_settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self,
        widen_factor: float = 1.0,
        act_cfg: dict | None = None,
        act_positions: Sequence[str] | None = None,
        hyper_input: str | Mapping[str, str] = 'own',
        out_indices: Sequence[int] = (7,),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            norm_eval,
            init_cfg
            or [
                dict(type='Kaiming', layer=['Conv2d']),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ],
        )
        check_widen_factor('MobileNetV2', widen_factor)
        acts = Placement(
            'MobileNetV2', act_cfg, act_positions, hyper_input, ('stem', *BLOCK_POSITIONS, 'last')
        )
        original = dict(type='ReLU6')
        cfgs: dict[str, Any] = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg or dict(type='BN'))
        width = make_divisible(32 * widen_factor)
        self.conv1 = ConvAct(3, width, 3, stride=2, **acts.at('stem', original), **cfgs)
        for i, (ratio, channels, num_blocks, stride) in enumerate(self.arch_settings, 1):
            out = make_divisible(channels * widen_factor)
            blocks = []
            for j in range(num_blocks):
                blocks.append(
                    InvertedResidual(
                        width,
                        width * ratio,
                        out,
                        acts,
                        original,
                        stride=stride if j == 0 else 1,
                        with_cp=with_cp,
                        **cfgs,
                    )
                )
                width = out
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
        self.out_channels = int(1280 * max(widen_factor, 1.0))
        self.conv2 = ConvAct(width, self.out_channels, 1, **acts.at('last', original), **cfgs)
        stages = ('conv1', *(f'layer{i}' for i in range(1, 8)), 'conv2')
        self._finish(stages, -1, out_indices, frozen_stages)
