# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The common part of MobileNetV2 and V3: stages, outputs, freezing."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...ops._arguments import indices, integer


class MobileNet(BaseModule):
    """A sequence of named stages, some of whose outputs are wanted.

    A subclass creates the stages and then calls :meth:`_finish`.

    Args:
        norm_eval: Whether batch normalisation stays in evaluation mode.
        init_cfg: Config of the initialisation.
    """

    def __init__(self, norm_eval: bool, init_cfg: dict | list[dict]) -> None:
        super().__init__(init_cfg)
        self.norm_eval = norm_eval

    def _finish(
        self, stages: Sequence[str], first: int, out_indices: Sequence[int], frozen_stages: int
    ) -> None:
        """Checks and keeps which stages there are, put out and frozen.

        Args:
            stages: Names of the stages, in order.
            first: Index in ``out_indices`` of the first stage: -1 if it cannot be put out.
            out_indices: Indices of the stages whose outputs are wanted.
            frozen_stages: Index, from 0, of the last stage that does not learn, or -1. The largest
                is that of the last output, as in MMPose.

        Raises:
            ValueError: If there is no such stage.
        """
        owner, last = type(self).__name__, first + len(stages) - 1
        self.stages, self._first = tuple(stages), first
        first = max(first, 0)
        wanted = f'integers from {first} to {last}'
        self.out_indices = indices(owner, 'out_indices', out_indices, first, last, wanted)
        wanted = f'an integer from -1 (none) to {last}'
        self.frozen_stages = integer(owner, 'frozen_stages', frozen_stages, -1, last, wanted)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of the stages in ``out_indices`` from images (B, 3, H, W)."""
        outs = []
        for i, name in enumerate(self.stages, self._first):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> MobileNet:
        """Sets training mode, except in frozen stages and, with ``norm_eval``, normalisation."""
        super().train(mode)
        for name in self.stages[: self.frozen_stages + 1]:
            getattr(self, name).eval().requires_grad_(False)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
