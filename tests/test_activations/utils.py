# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Parts that the tests of the activation layers share."""

import torch
from test_ops.utils import PWLU_PARAMETERS, make_parameters
from torch import Tensor

from mmact.activations import PWLU
from mmact.ops import reference


def randomise(act: PWLU, seed: int = 0) -> PWLU:
    """Gives the function random parameters, as after some learning."""
    values = make_parameters(act.num_functions, act.num_intervals, seed=seed)
    with torch.no_grad():
        for name, value in zip(PWLU_PARAMETERS, values, strict=True):
            getattr(act, name).copy_(value.flatten())
    return act


def make_pwlu(channels: int = 4, seed: int = 0, **kwargs) -> PWLU:
    """A PWLU of random function."""
    if kwargs.get('num_groups') == 1:
        channels = None
    return randomise(PWLU(channels, **kwargs), seed)


def expected_output(act: PWLU, x: Tensor) -> Tensor:
    """The function of act's parameters, as they are now, in float64."""
    values = [p.detach().double() for p in act._parameters_in_order()]
    dim = 1 if act.channel_dim is None else act.channel_dim
    return reference.pwlu(x.detach().double(), *values, channel_dim=dim)
