# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
from .learned_activation_hook import LearnedActivationHook
from .pwlu_realign_hook import PWLURealignHook

__all__ = ['LearnedActivationHook', 'PWLURealignHook']
