# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of activations: learned functions, how well they fit their input, how dynamic they are.

Needs torch, and matplotlib as soon as something is drawn.
"""

from .alignment import alignment_iou, input_quantiles, plot_alignment
from .dynamics import PairRecorder, activation_layers, plot_dynamics, spread
from .functions import plot_functions
from .layers import activations_from_state_dict, scalar_activations
from .recorder import InputRecorder

__all__ = [
    'InputRecorder',
    'PairRecorder',
    'activation_layers',
    'activations_from_state_dict',
    'alignment_iou',
    'input_quantiles',
    'plot_alignment',
    'plot_dynamics',
    'plot_functions',
    'scalar_activations',
    'spread',
]
