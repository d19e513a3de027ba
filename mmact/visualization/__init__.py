# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of activations: learned functions, how well they fit their input, how dynamic they are.

Needs torch, and matplotlib as soon as something is drawn.
"""

from .alignment import alignment_iou, input_quantiles, plot_alignment
from .dynamics import PairRecorder, activation_layers, plot_dynamics, spread
from .families import Family, family
from .functions import plot_functions
from .layers import activations_from_state_dict, scalar_activations
from .measures import FunctionRecorder, Measures, measure, watchable
from .recorder import InputRecorder
from .report import Snapshot, write_report
from .snapshots import checkpoints_of, layers_in, read_checkpoint

__all__ = [
    'Family',
    'FunctionRecorder',
    'InputRecorder',
    'Measures',
    'PairRecorder',
    'Snapshot',
    'activation_layers',
    'activations_from_state_dict',
    'alignment_iou',
    'checkpoints_of',
    'family',
    'input_quantiles',
    'layers_in',
    'measure',
    'plot_alignment',
    'plot_dynamics',
    'plot_functions',
    'read_checkpoint',
    'scalar_activations',
    'spread',
    'watchable',
    'write_report',
]
