# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks whose activations can stand at any position and can be dynamic.

Papers: Sandler et al., MobileNetV2, CVPR 2018; Howard et al., Searching for MobileNetV3, ICCV 2019;
the positions A1, A2 and A3: Chen et al., Dynamic ReLU, ECCV 2020, Table 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...activations import DyReLUA, DyReLUB, DyReLUC
from ...ops._arguments import choice, number, refuse, sequence, shown
from ...registry import MODELS

#: After the 1x1 expansion, the depthwise convolution and the 1x1 projection of a block.
BLOCK_POSITIONS = ('A1', 'A2', 'A3')


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds a width to a multiple of ``divisor``, never to less than nine tenths of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def check_widen_factor(owner: str, value: float) -> None:
    """Raises a ValueError unless the width multiplier is a positive number."""
    wanted = 'a positive number such as 0.35 or 1.0'
    number(owner, 'widen_factor', value, above=0, below=100, wanted=wanted)


def is_dynamic(act_cfg: dict | None) -> bool:
    """Whether a config means one of the variants of Dynamic ReLU."""
    if act_cfg is None:
        return False
    kind = act_cfg['type']
    with MODELS.switch_scope_and_registry(None) as registry:
        kind = registry.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, (DyReLUA, DyReLUB, DyReLUC))


class Placement:
    """The places of activations in a network of inverted residual blocks.

    Args:
        owner: Name of the network, for messages.
        act_cfg: The activation; None for the original ones everywhere.
        act_positions: Where ``act_cfg`` stands; the original activation stands at all others. None
            for all of ``names`` if it is dynamic (section 5.1: "after each convolution layer"), and
            for all but A3 if not, as in the original.
        hyper_input: What the hyper function of a dynamic activation sees: ``'own'``, the
            activation's input, or ``'conv'``, the input of the convolution before it; or a dict of
            these by position, with ``'own'`` at those left out.
        names: Positions that the network has.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        owner: str,
        act_cfg: dict | None,
        act_positions: Sequence[str] | None,
        hyper_input: str | Mapping[str, str],
        names: Sequence[str],
    ) -> None:
        kind = act_cfg.get('type') if isinstance(act_cfg, Mapping) else None
        if act_cfg is not None and not isinstance(kind, (str, type)):
            wanted = "a dict with a type, such as dict(type='DyReLUB')"
            refuse(owner, 'act_cfg', wanted, act_cfg)
        self.act_cfg, self.dynamic = act_cfg, is_dynamic(act_cfg)
        if act_positions is None:
            act_positions = [name for name in names if self.dynamic or name != 'A3']
        elif act_cfg is None:
            raise ValueError(
                f'{owner}: act_positions={shown(act_positions)} says where act_cfg stands, and '
                f"there is none: pass act_cfg=dict(type='DyReLUB') or another"
            )
        wanted = f'a sequence of some of {tuple(names)}'
        positions = sequence(owner, 'act_positions', act_positions, wanted)
        if not all(isinstance(p, str) and p in names for p in positions):
            refuse(owner, 'act_positions', wanted, act_positions)
        self.positions = frozenset(act_positions)
        inputs = dict.fromkeys(names, hyper_input) if isinstance(hyper_input, str) else hyper_input
        wanted = f"'own', 'conv' or a dict of these with keys of {tuple(names)}"
        if not isinstance(inputs, Mapping) or not set(inputs) <= set(names):
            refuse(owner, 'hyper_input', wanted, hyper_input)
        for value in inputs.values():
            choice(owner, 'hyper_input', value, ('own', 'conv'), wanted)
        if 'conv' in inputs.values() and not self.dynamic:
            raise ValueError(
                f"{owner}: hyper_input={shown(hyper_input)} needs an act_cfg of type 'DyReLUA', "
                f"'DyReLUB' or 'DyReLUC', got {shown(act_cfg)}; leave it at 'own' for others"
            )
        self.inputs = inputs

    def at(self, position: str, original: dict | None) -> dict:
        """Arguments of :class:`ConvAct` for a position.

        Args:
            position: Its name.
            original: Config of the activation that the original network has there, or None.

        Returns:
            dict of ``act_cfg`` and ``hyper_input``.
        """
        if self.act_cfg is None or position not in self.positions:
            return dict(act_cfg=original, hyper_input='own')
        return dict(act_cfg=self.act_cfg, hyper_input=self.inputs.get(position, 'own'))


class ConvAct(ConvModule):
    """mmcv's ConvModule whose activation may see the input of the convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Edge of the kernel; the padding keeps the resolution.
        act_cfg: Config of the activation, or None.
        hyper_input: ``'conv'`` if the hyper function of a dynamic activation sees this module's
            input, ``'own'`` if it sees the activation's.
        **kwargs: As in ConvModule.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act_cfg: dict | None = None,
        hyper_input: str = 'own',
        **kwargs,
    ) -> None:
        if hyper_input == 'conv' and act_cfg is not None:
            act_cfg = {**act_cfg, 'context_channels': in_channels}
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            act_cfg=act_cfg,
            **kwargs,
        )
        self.hyper_input = hyper_input

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.hyper_input == 'own' or not activate:
            return super().forward(x, activate, norm)
        return self.activate(super().forward(x, activate=False, norm=norm), x)


class SELayer(BaseModule):
    """Squeeze-and-excitation as MobileNetV3 has it: a quarter of the width, hard sigmoid.

    Args:
        channels: Number of channels.
        conv_cfg: Config of the convolutions.
    """

    def __init__(self, channels: int, conv_cfg: dict | None = None) -> None:
        super().__init__()
        hidden = make_divisible(channels // 4)
        gate = dict(type='HSigmoid', bias=3.0, divisor=6.0)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = ConvModule(channels, hidden, 1, conv_cfg=conv_cfg)
        self.conv2 = ConvModule(hidden, channels, 1, conv_cfg=conv_cfg, act_cfg=gate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return x * self.conv2(self.conv1(self.global_avgpool(x)))


class InvertedResidual(BaseModule):
    """1x1 expansion, depthwise convolution, 1x1 projection; a sum where the shapes agree.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels of the depthwise convolution; there is no expansion if they equal
            ``in_channels``.
        out_channels: Channels of the output.
        acts: Where which activation stands. A3 stands before the sum.
        original: Config of the activation at A1 and A2 where ``acts`` has none.
        kernel_size: Edge of the depthwise kernel.
        stride: Of the depthwise convolution, 1 or 2.
        with_se: Whether squeeze-and-excitation follows A2.
        conv_cfg: Config of the convolutions.
        norm_cfg: Config of the normalisation layers.
        with_cp: Whether to recompute the block in backward in place of keeping its tensors.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        acts: Placement,
        original: dict,
        kernel_size: int = 3,
        stride: int = 1,
        with_se: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.with_res_shortcut = stride == 1 and in_channels == out_channels
        cfgs: dict[str, Any] = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        layers: dict[str, nn.Module] = {}
        if mid_channels != in_channels:
            layers['expand_conv'] = ConvAct(
                in_channels, mid_channels, 1, **acts.at('A1', original), **cfgs
            )
        layers['depthwise_conv'] = ConvAct(
            mid_channels,
            mid_channels,
            kernel_size,
            stride=stride,
            groups=mid_channels,
            **acts.at('A2', original),
            **cfgs,
        )
        if with_se:
            layers['se'] = SELayer(mid_channels, conv_cfg)
        layers['linear_conv'] = ConvAct(
            mid_channels, out_channels, 1, **acts.at('A3', None), **cfgs
        )
        self.layers = self._register(layers)

    def _register(self, layers: dict[str, nn.Module]) -> tuple[str, ...]:
        """Makes the layers submodules and returns the submodules' names in order."""
        for name, layer in layers.items():
            self.add_module(name, layer)
        return tuple(layers)

    def _sum(self, x: Tensor) -> Tensor:
        out = x
        for name in self.layers:
            out = getattr(self, name)(out)
        return x + out if self.with_res_shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._sum, x, use_reentrant=False)
        return self._sum(x)
