# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests. Needs torch and pytest alone, like the tests of ops and activations."""

import pytest
import torch

# `make test` runs a process per core; threads beyond that only wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device: torch.cuda.is_available() is False')
    for item in items:
        if 'cuda' in item.keywords:
            item.add_marker(skip)
