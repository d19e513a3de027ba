# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
from .activation_regularizer_hook import ActivationRegularizerHook
from .learned_activation_hook import LearnedActivationHook
from .pwlu_realign_hook import PWLURealignHook

__all__ = ['ActivationRegularizerHook', 'LearnedActivationHook', 'PWLURealignHook']
