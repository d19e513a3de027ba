# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""DyHead with mmact's Dynamic ReLU as its task-aware attention."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.necks import DyHead as MMDetDyHead
from torch import Tensor, nn

from ...activations import DyReLUB
from ...ops._arguments import integer
from ...registry import MODELS


class TaskAwareAttention(DyReLUB):
    """MMDetection's ``DyReLU``: Dynamic ReLU B with R = 4 and a hard sigmoid for the sigmoid.

    Loads the weights of MMDetection's layer, whose coefficients are in the order a1, b1, a2, b2.

    Args:
        num_channels: Number of channels.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(integer(type(self).__name__, 'num_channels', num_channels, 1), reduction=4)
        # As DyHead starts its own.
        for i in (1, 2):
            nn.init.normal_(getattr(self, f'fc{i}_weight'), std=0.01)
            nn.init.zeros_(getattr(self, f'fc{i}_bias'))

    def gate(self, z: Tensor) -> Tensor:
        """s in the residual 2 s - 1."""
        return F.hardsigmoid(z)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args) -> None:
        if f'{prefix}conv1.conv.weight' in state_dict:
            for i, kind in itertools.product((1, 2), ('weight', 'bias')):
                value = state_dict.pop(f'{prefix}conv{i}.conv.{kind}')
                value = value.flatten(1) if kind == 'weight' else value
                if i == 2:
                    a1, b1, a2, b2 = value.chunk(4)
                    value = torch.cat([a1, a2, b1, b2])
                state_dict[f'{prefix}fc{i}_{kind}'] = value.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class DyHead(MMDetDyHead):
    """MMDetection's DyHead, whose Dynamic ReLU runs on mmact's op.

    Outputs are MMDetection's for the same weights, and its checkpoints load. In a config,
    ``type='mmact.DyHead'`` in place of ``type='DyHead'``.

    Args:
        *args: As in MMDetection's DyHead.
        **kwargs: As in MMDetection's DyHead.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for block in self.dyhead_blocks:
            block.task_attn_module = TaskAwareAttention(self.out_channels)
