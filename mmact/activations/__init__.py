# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The activation layers. They need torch alone."""

from .base import Activation, ChannelActivation, unresolved
from .frelu import FReLU
from .pwlu import PWLU

__all__ = ['PWLU', 'Activation', 'ChannelActivation', 'FReLU', 'unresolved']
