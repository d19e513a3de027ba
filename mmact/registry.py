# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The way from configs to mmact's classes.

Activations, hooks and constructors have names of their own, so they go into MMEngine's root
registries and resolve from any ``default_scope``; so do those of PyTorch's activations that mmcv
leaves out. Classes named like one of another codebase (``ResNet``) stand in the child scope:
``type='mmact.ResNet'``. That scope imports the module, and with it the codebase that it extends,
only when a config asks for it. The data sets, transforms and metrics of projects/ stand there too.
"""

import importlib
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry
from mmengine.utils import is_installed

from .activations.catalogue import layers
from .activations.standard import STANDARD

__all__ = ['DATASETS', 'INSTALL', 'METRICS', 'MODELS', 'TRANSFORMS', 'register_all']

#: How to get a codebase, for messages where it is missing.
INSTALL = {
    'mmdet': 'pip install onedl-mmdetection (or mmdet)',
    'mmseg': 'pip install onedl-mmsegmentation (or mmsegmentation)',
    'mmpretrain': 'pip install onedl-mmpretrain (or mmpretrain)',
    'mmpose': '`make setup` installs it, or pip install --no-build-isolation --no-deps -r '
    'requirements/pose.txt',
}

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmact', locations=['mmact.models'])
# Filled by custom_imports; MMEngine wants a location.
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmact', locations=['mmact'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmact', locations=['mmact'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmact', locations=['mmact'])


def register_all() -> None:
    """Registers what configs can name; ``import mmact`` calls it where MMEngine is installed.

    Calling it again changes nothing.

    Raises:
        KeyError: If another package registered a different class under a name of mmact's.
    """
    _complete_config_packages()
    for name, cls in layers().items():
        for registry in (MMENGINE_MODELS, MODELS):
            if registry.module_dict.get(name) is not cls:
                registry.register_module(name=name, module=cls)
    _register_standard_activations()
    # Its modules register themselves.
    importlib.import_module('mmact.engine')


def _register_standard_activations() -> None:
    """Registers those activations of PyTorch that no other package has registered by that name."""
    if find_spec('mmcv') is not None:
        # It must come first: it registers some of them, and would find its names taken.
        importlib.import_module('mmcv.cnn')
    for name, standard in STANDARD.items():
        if name not in MMENGINE_MODELS.module_dict:
            MMENGINE_MODELS.register_module(name=name, module=standard.cls)


def _complete_config_packages() -> None:
    """Lets ``_base_ = 'mmact::...'`` and ``'mmseg::...'`` resolve.

    MMEngine looks a codebase's configs up under its distribution's name, which differs between
    OpenMMLab's own distributions and the onedl-* ones. The module's name always works.
    """
    MODULE2PACKAGE['mmact'] = 'mmact'
    for module, package in MODULE2PACKAGE.items():
        if module != package and find_spec(module) is not None and not is_installed(package):
            MODULE2PACKAGE[module] = module
