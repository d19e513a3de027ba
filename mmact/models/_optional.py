# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Registering models that extend a codebase, which need not be installed."""

import importlib
from importlib.util import find_spec

from ..registry import INSTALL, MODELS


def register(name: str, home: str, extends: str, module: str) -> None:
    """Registers a model, or what says why it is not there.

    Args:
        name: Name of the model in the scope ``mmact``.
        home: Module that registers it when imported, from ``mmact`` on.
        extends: What it extends, for the message: ``"MMDetection's ResNet"``.
        module: What of the codebase it needs: ``'mmdet'``, ``'mmseg'``, ``'mmpose'`` or
            ``'mmpretrain'``, or a module of these.
    """
    codebase = module.partition('.')[0]
    if find_spec(codebase) is None:
        reason = f'{codebase} is not installed: {INSTALL[codebase]}'
    else:
        try:
            importlib.import_module(module)
        # Versions that do not fit together end in an AssertionError.
        except (ImportError, AssertionError) as error:
            reason = f'{codebase} cannot be imported: {error}'
        else:
            importlib.import_module(f'mmact.{home}')
            return

    def unavailable(*args, **kwargs):
        raise ImportError(f'mmact.{name} extends {extends}, and {reason}')

    MODELS.register_module(name=name, module=unavailable)
