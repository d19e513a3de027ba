# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Rules for all tests. Needs torch and pytest alone, like the tests of ops and activations."""

import importlib
import os
import sys

import pytest
import torch

# `make test` runs a process per core; threads beyond that only wait for each other.
torch.set_num_threads(1)

# The library of tests/cuda_emulator, whose kernels then take the place of the CPU's.
EMULATED = os.environ.get('MMACT_EMULATED_CUDA')
if EMULATED:
    importlib.import_module('mmact.ops')  # the kernels that are registered last win
    torch.ops.load_library(EMULATED)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device: torch.cuda.is_available() is False')
    for item in items:
        # Not item.keywords, which have the names of the folders, too.
        gpu_only, cuda = map(item.get_closest_marker, ('gpu_only', 'cuda'))
        if gpu_only or (cuda and not EMULATED):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_leftovers_of_mmengine():
    """MMEngine keeps loggers, visualizers, message hubs and default scopes for the process's life.

    A test must not find those of the test before it, whose streams may be closed by now and whose
    scope may be another codebase's.
    """
    yield
    if 'mmengine' in sys.modules:
        from mmengine.logging import MessageHub, MMLogger
        from mmengine.registry import DefaultScope
        from mmengine.visualization import Visualizer

        kinds = [MMLogger, MessageHub, Visualizer, DefaultScope]
        while kinds:
            kind = kinds.pop()
            kind._instance_dict.clear()
            kinds += kind.__subclasses__()
