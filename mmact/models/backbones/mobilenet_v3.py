# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MobileNetV3 with any activation, static or dynamic, at any position."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...ops._arguments import choice
from ...registry import MODELS
from ._inverted_residual import (
    BLOCK_POSITIONS,
    ConvAct,
    InvertedResidual,
    Placement,
    SELayer,
    check_widen_factor,
    make_divisible,
)
from ._mobilenet import MobileNet

# Kernel size, expanded channels, channels, squeeze-and-excitation, activation and stride of each
# block: Tables 1 and 2 of the MobileNetV3 paper.
_SMALL = (
    (3, 16, 16, True, 'ReLU', 2),
    (3, 72, 24, False, 'ReLU', 2),
    (3, 88, 24, False, 'ReLU', 1),
    (5, 96, 40, True, 'HSwish', 2),
    (5, 240, 40, True, 'HSwish', 1),
    (5, 240, 40, True, 'HSwish', 1),
    (5, 120, 48, True, 'HSwish', 1),
    (5, 144, 48, True, 'HSwish', 1),
    (5, 288, 96, True, 'HSwish', 2),
    (5, 576, 96, True, 'HSwish', 1),
    (5, 576, 96, True, 'HSwish', 1),
)
_LARGE = (
    (3, 16, 16, False, 'ReLU', 1),
    (3, 64, 24, False, 'ReLU', 2),
    (3, 72, 24, False, 'ReLU', 1),
    (5, 72, 40, True, 'ReLU', 2),
    (5, 120, 40, True, 'ReLU', 1),
    (5, 120, 40, True, 'ReLU', 1),
    (3, 240, 80, False, 'HSwish', 2),
    (3, 200, 80, False, 'HSwish', 1),
    (3, 184, 80, False, 'HSwish', 1),
    (3, 184, 80, False, 'HSwish', 1),
    (3, 480, 112, True, 'HSwish', 1),
    (3, 672, 112, True, 'HSwish', 1),
    (5, 672, 160, True, 'HSwish', 2),
    (5, 960, 160, True, 'HSwish', 1),
    (5, 960, 160, True, 'HSwish', 1),
)


def _with_strides(blocks: tuple, strides: dict[int, int]) -> tuple:
    return tuple((*b[:-1], strides.get(i, b[-1])) for i, b in enumerate(blocks, 1))


@MODELS.register_module()
class MobileNetV3(MobileNet):
    """MobileNetV3 backbone (Howard et al., ICCV 2019) whose activations are set by ``act_cfg``.

    Each activation is a module of its own. All keys of the state_dict of MMPretrain's MobileNetV3
    are there, but those of squeeze-and-excitation where that is left out; parameters of activations
    are additional keys (``layer<i>.activate`` in the first and last stage,
    ``layer<i>.<convolution>.activate`` in the blocks). Without ``act_cfg`` the outputs are
    MMPretrain's.

    Positions are named ``'stem'`` (after the first convolution), ``'A1'``, ``'A2'``, ``'A3'``
    (after the 1x1 expansion, the depthwise convolution and the 1x1 projection of every block) and
    ``'last'`` (after the last 1x1 convolution).

    At other widths than 1 the stem keeps its 16 channels and every block its expansion ratio, as in
    MMPretrain's ``small_075`` and ``small_050``, which are ``arch='small'`` with ``widen_factor``
    0.75 and 0.5.

    Args:
        arch: ``'small'`` or ``'large'``, the released networks, or ``'small_early'``: the network
            of 66 M multiply-adds and 2.9 M parameters that the Dynamic ReLU paper compares with.
            Its fourth block has stride 1 and its fifth stride 2, and squeeze-and-excitation follows
            the last convolution. This is reconstructed from the counts that the paper prints;
            those of Table 10 need that last squeeze-and-excitation, those of Table 5 do not have it
            (``se='blocks'``).
        widen_factor: Width multiplier.
        act_cfg: Config of the activations; None for the original mix of ReLU and h-swish.
        act_positions: Positions at which ``act_cfg`` stands; at the others stands what the original
            has. None: all positions if ``act_cfg`` is a Dynamic ReLU (section 5.1 of its paper),
            else all but A3.
        hyper_input: What the hyper function of a Dynamic ReLU sees: ``'own'``, its own input, as in
            the paper, or ``'conv'``, the input of the convolution before it; or a dict of these by
            position.
        se: Whether there is squeeze-and-excitation where the original has it: True, False, or
            ``'blocks'`` for all but the one after the last convolution of ``'small_early'``. None
            to remove it just when ``act_cfg`` is a Dynamic ReLU (section 5.1).
        out_indices: Stages ``layer<i>`` whose outputs are wanted: 0 for the stem, then the blocks,
            then the last convolution (12 in small, 16 in large), which is the default.
        frozen_stages: Last stage that does not learn; -1 for none.
        conv_cfg: Config of the convolutions.
        norm_cfg: Config of the normalisation layers; by default batch normalisation with epsilon
            0.001 and momentum 0.01.
        norm_eval: Whether batch normalisation stays in evaluation mode.
        with_cp: Whether to recompute blocks in backward in place of keeping their tensors.
        init_cfg: Config of the initialisation; Kaiming's for convolutions by default.

    Raises:
        ValueError: If an argument is out of range.
        KeyError: If the type of the activation is unknown.

    Example:
        >>> net = MobileNetV3('large', act_cfg=dict(type='DyReLUC'))
        >>> net(torch.randn(2, 3, 256, 192))[0].shape
        torch.Size([2, 960, 8, 6])
    """

    arch_settings = {
        'small': _SMALL,
        'small_early': _with_strides(_SMALL, {4: 1, 5: 2}),
        'large': _LARGE,
    }

    def __init__(
        self,
        arch: str = 'small',
        widen_factor: float = 1.0,
        act_cfg: dict | None = None,
        act_positions: Sequence[str] | None = None,
        hyper_input: str | Mapping[str, str] = 'own',
        se: bool | str | None = None,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        # No rule for linear layers, unlike in OpenMMLab's: there are none but those of dynamic
        # activations, and they start as they want to.
        super().__init__(
            norm_eval,
            init_cfg
            or [
                dict(type='Kaiming', layer=['Conv2d'], nonlinearity='leaky_relu'),
                dict(type='Constant', val=1, layer=['BatchNorm2d']),
            ],
        )
        wanted = f'one of {tuple(self.arch_settings)}'
        choice('MobileNetV3', 'arch', arch, self.arch_settings, wanted)
        if se is not None and not isinstance(se, bool):
            choice('MobileNetV3', 'se', se, ('blocks',), "True, False, 'blocks' or None")
        check_widen_factor('MobileNetV3', widen_factor)
        acts = Placement(
            'MobileNetV3', act_cfg, act_positions, hyper_input, ('stem', *BLOCK_POSITIONS, 'last')
        )
        se = not acts.dynamic if se is None else se
        cfgs: dict[str, Any] = dict(
            conv_cfg=conv_cfg, norm_cfg=norm_cfg or dict(type='BN', eps=0.001, momentum=0.01)
        )
        hswish = dict(type='HSwish')
        table = self.arch_settings[arch]
        width = table_width = 16
        self.layer0 = ConvAct(3, width, 3, stride=2, **acts.at('stem', hswish), **cfgs)
        for i, (kernel_size, mid, out, with_se, act, stride) in enumerate(table, 1):
            mid_width = make_divisible(width * mid / table_width)
            out_width = make_divisible(out * widen_factor)
            block = InvertedResidual(
                width,
                mid_width,
                out_width,
                acts,
                dict(type=act),
                kernel_size,
                stride,
                with_se=with_se and bool(se),
                with_cp=with_cp,
                **cfgs,
            )
            self.add_module(f'layer{i}', block)
            width, table_width = out_width, out
        self.out_channels = mid_width
        last: nn.Module = ConvAct(width, mid_width, 1, **acts.at('last', hswish), **cfgs)
        if arch == 'small_early' and se is True:
            last = nn.Sequential(OrderedDict(conv=last, se=SELayer(mid_width, conv_cfg)))
        stages = [f'layer{i}' for i in range(len(table) + 2)]
        self.add_module(stages[-1], last)
        if out_indices is None:
            out_indices = (len(stages) - 1,)
        self._finish(stages, 0, out_indices, frozen_stages)
