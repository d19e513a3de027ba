# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Constructors of optimizers."""

from .activation_param_constructor import ActivationParamConstructor

__all__ = ['ActivationParamConstructor']
