# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The common part of MobileNetV2 and V3: stages, outputs, freezing."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


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
            frozen_stages: Index, from 0, of the last stage that does not learn, or -1.

        Raises:
            ValueError: If there is no such stage.
        """
        name, last = type(self).__name__, first + len(stages) - 1
        if isinstance(out_indices, int) or not set(out_indices) <= set(
            range(max(first, 0), last + 1)
        ):
            raise ValueError(
                f'{name}: out_indices must be integers from {max(first, 0)} to {last}, '
                f'got {out_indices!r}'
            )
        if frozen_stages not in range(-1, len(stages)):
            raise ValueError(
                f'{name}: frozen_stages must be an integer from -1 (none) to {len(stages) - 1}, '
                f'got {frozen_stages!r}'
            )
        self.stages, self._first = tuple(stages), first
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages

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
