# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Configs inherit, so that reading one takes a quarter of a second, and most are read often."""

import copy
import functools

import pytest

try:
    from mmengine.config import Config
except ImportError:
    Config = None


@pytest.fixture(autouse=True, scope='module')
def every_config_is_read_once():
    if Config is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(_read(str(path))))
        yield


@functools.cache
def _read(path):
    return _fromfile(path)


_fromfile = Config and Config.fromfile
