# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Training with MMEngine: hooks and optimizer wrapper constructors."""

from . import analysis
from .hooks import (
    ActivationRegularizerHook,
    LearnedActivationHook,
    PWLURealignHook,
    ResumableCheckpointHook,
)
from .optimizers import ActivationParamConstructor

__all__ = [
    'ActivationParamConstructor',
    'ActivationRegularizerHook',
    'LearnedActivationHook',
    'PWLURealignHook',
    'ResumableCheckpointHook',
    'analysis',
]
