# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""MMPretrain's linear classifier with dropout before it."""

from __future__ import annotations

from mmpretrain.models.heads import LinearClsHead as _LinearClsHead
from torch import Tensor, nn

from ...registry import MODELS


@MODELS.register_module()
class LinearClsHead(_LinearClsHead):
    """MMPretrain's head of one linear layer, with dropout before it.

    The Dynamic ReLU paper trains MobileNetV2 and ResNets with it (sections 5.1 and A.4). Keys of
    the state_dict are those of MMPretrain's head.

    Args:
        dropout_rate: Probability of dropping a feature.
        **kwargs: Arguments of MMPretrain's LinearClsHead.
    """

    def __init__(self, dropout_rate: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(dropout_rate)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Takes the last features (B, in_channels) of a tuple and drops some in training."""
        return self.dropout(super().pre_logits(feats))
