# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""How mmact's classes are found from configs.

Activations, hooks and constructors have names of their own, so they go into MMEngine's root
registries and resolve from any ``default_scope``. Classes named like one of another codebase
(``ResNet``) stand in the child scope: ``type='mmact.ResNet'``. That scope imports ``mmact.models``,
and with it MMDetection, only when a config asks for it.
"""

import importlib
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from mmengine.utils import is_installed
from torch import nn

from . import activations

__all__ = ['MODELS', 'register_all']

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmact', locations=['mmact.models'])


def register_all() -> None:
    """Registers what configs can name; ``import mmact`` calls it where MMEngine is installed.

    Calling it again changes nothing.

    Raises:
        KeyError: If another package registered a different class under a name of mmact's.
    """
    _complete_config_packages()
    for name in activations.__all__:
        cls = getattr(activations, name)
        if _is_layer(cls):
            for registry in (MMENGINE_MODELS, MODELS):
                if registry.module_dict.get(name) is not cls:
                    registry.register_module(name=name, module=cls)
    # Its modules register themselves.
    importlib.import_module('mmact.engine')


def _is_layer(cls: object) -> bool:
    is_activation = isinstance(cls, type) and issubclass(cls, activations.Activation)
    # The base classes have no forward.
    return is_activation and cls.forward is not nn.Module.forward


def _complete_config_packages() -> None:
    """Lets ``_base_ = 'mmact::...'`` and ``'mmseg::...'`` resolve.

    MMEngine looks a codebase's configs up under its distribution's name, which differs between
    OpenMMLab's own distributions and the onedl-* ones. The module's name always works.
    """
    MODULE2PACKAGE['mmact'] = 'mmact'
    for module, package in MODULE2PACKAGE.items():
        if module != package and find_spec(module) is not None and not is_installed(package):
            MODULE2PACKAGE[module] = module
