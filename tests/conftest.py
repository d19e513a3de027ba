# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests. Needs torch and pytest alone, like the tests of ops and activations."""

import pytest
import torch

torch.set_num_threads(2)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device: torch.cuda.is_available() is False')
    for item in items:
        if 'cuda' in item.keywords:
            item.add_marker(skip)
