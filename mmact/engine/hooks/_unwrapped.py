# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The model under MMEngine's wrappers."""

from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself where a wrapper for distributed training holds it."""
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model
