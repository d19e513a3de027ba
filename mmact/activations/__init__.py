# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The activation layers. They need torch alone."""

from .acon import AconC, MetaAconC
from .apl import APL
from .arelu import ELSA, AReLU
from .base import Activation, ChannelActivation, unresolved
from .catalogue import ActivationRecord, list_activations
from .ditac import DiTAC
from .dyrelu import DyReLUA, DyReLUB, DyReLUC
from .frelu import FReLU
from .fusion import norm_act
from .group_rational import GroupRational
from .maxout import Maxout
from .mixture import Comb, Mixture
from .pau import PAU, RPAU
from .pdelu import PDELU
from .pwlu import PWLU
from .slaf import SLAF
from .squareplus import Squareplus
from .srelu import SReLU
from .star_relu import StarReLU
from .to_pwlu import to_pwlu
from .xielu import XIELU

__all__ = [
    'AconC',
    'GroupRational',
    'MetaAconC',
    'Squareplus',
    'StarReLU',
    'XIELU',
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
    'norm_act',
    'to_pwlu',
    'unresolved',
]
