# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of learned activation functions and of how well they fit their input.

Needs torch, and matplotlib as soon as something is drawn.
"""

from .alignment import alignment_iou, input_quantiles, plot_alignment
from .functions import plot_functions
from .layers import activations_from_state_dict, scalar_activations
from .recorder import InputRecorder

__all__ = [
    'InputRecorder',
    'activations_from_state_dict',
    'alignment_iou',
    'input_quantiles',
    'plot_alignment',
    'plot_functions',
    'scalar_activations',
]
