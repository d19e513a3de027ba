# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Hooks of MMEngine's runner."""

from .activation_regularizer_hook import ActivationRegularizerHook
from .learned_activation_hook import LearnedActivationHook
from .pwlu_realign_hook import PWLURealignHook
from .resumable_checkpoint_hook import AtomicLocalBackend, ResumableCheckpointHook

__all__ = [
    'ActivationRegularizerHook',
    'AtomicLocalBackend',
    'LearnedActivationHook',
    'PWLURealignHook',
    'ResumableCheckpointHook',
]
