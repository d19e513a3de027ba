# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tests in a process whose kernels are the emulated ones; test_emulated.py starts it."""

import ctypes
import os

import pytest
import torch
import traffic
from test_ops.cases import CASES
from test_ops.test_elementwise import SOME_CASES, arguments, run

pytestmark = pytest.mark.cuda
LIBRARY = ctypes.CDLL(os.environ['MMACT_EMULATED_CUDA'])


def results():
    """The bits of every op's results."""
    for name in SOME_CASES:
        for layout in ('nchw', 'channels_last', 'tokens'):
            for dtype in (torch.float32, torch.float16):
                given = arguments(CASES[name], layout, 36, 1, dtype)
                yield [t.reshape(-1).view(torch.uint8) for t in run(CASES[name], *given)]


def test_the_order_of_threads_changes_no_bit():
    """A race in a block would show: threads and blocks run in an order that the seed decides."""
    LIBRARY.emulator_seed(0)
    first = list(results())
    assert len(first) == 6 * len(SOME_CASES)
    for seed in (1, 2):
        LIBRARY.emulator_seed(seed)
        for one, other in zip(first, results(), strict=True):
            assert all(map(torch.equal, one, other))


def test_traffic():
    """Forward moves two tensors, backward three, and warps read whole sectors of memory."""
    rows = list(traffic.rows())
    assert len(rows) >= 90
    for what, forward, backward, coalesced in rows:
        assert round(forward, 3) == 2, what
        assert round(backward, 3) == 3, what
        # Planes of odd size begin within a sector, which two warps or two loads then read.
        assert coalesced >= (0.95 if '28x28' in what else 0.64), what
