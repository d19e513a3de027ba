# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PWLU's learning procedure for the training loops of projects."""

from __future__ import annotations

import torch
from torch import nn

from mmact.activations import PWLU


class TwoPhases:
    """PWLU's two phases (section 3.3 of its paper) in a training loop, as in ``PWLURealignHook``.

    Args:
        net: Its PWLUs begin to collect statistics; without any, nothing is done.
        optimizer: Of the network; it forgets what it has kept of their parameters in phase I.
        phase1: Steps of phase I; None if they learn from the first.
    """

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, phase1: int | None
    ) -> None:
        self.layers = [layer for layer in net.modules() if isinstance(layer, PWLU)]
        self.optimizer, self.phase1 = optimizer, phase1
        if phase1 is not None:
            for layer in self.layers:
                layer.start_collecting()

    def after_step(self, step: int) -> None:
        """Realigns at the end of phase I, and keeps bounds apart from then on.

        Args:
            step: Steps done.
        """
        for layer in self.layers:
            if step == self.phase1:
                layer.realign()
                for parameter in layer.parameters():
                    self.optimizer.state.pop(parameter, None)
            elif layer.phase == 'learn':
                layer.separate_bounds_()
