# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The activation layers. They need torch alone."""

from .apl import APL
from .arelu import ELSA, AReLU
from .base import Activation, ChannelActivation, unresolved
from .catalogue import ActivationRecord, list_activations
from .ditac import DiTAC
from .dyrelu import DyReLUA, DyReLUB, DyReLUC
from .frelu import FReLU
from .maxout import Maxout
from .mixture import Comb, Mixture
from .pau import PAU, RPAU
from .pdelu import PDELU
from .pwlu import PWLU
from .slaf import SLAF
from .srelu import SReLU
from .to_pwlu import to_pwlu

__all__ = [
    'APL',
    'ELSA',
    'PAU',
    'PDELU',
    'PWLU',
    'RPAU',
    'SLAF',
    'AReLU',
    'Activation',
    'ActivationRecord',
    'ChannelActivation',
    'Comb',
    'DiTAC',
    'DyReLUA',
    'DyReLUB',
    'DyReLUC',
    'FReLU',
    'Maxout',
    'Mixture',
    'SReLU',
    'list_activations',
    'to_pwlu',
    'unresolved',
]
