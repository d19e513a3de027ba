# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tests in a process whose kernels are the emulated ones; test_emulated.py starts it."""

import ctypes
import os

import pytest
import torch
import traffic
from test_ops import test_norm
from test_ops.cases import CASES
from test_ops.test_elementwise import SOME_CASES, arguments, run
from test_ops.utils import same_bits

pytestmark = pytest.mark.cuda
LIBRARY = ctypes.CDLL(os.environ['MMACT_EMULATED_CUDA'])


def results():
    """Every op's results, with and without a norm in front."""
    torch.manual_seed(0)
    for name in SOME_CASES:
        for layout in ('nchw', 'channels_last', 'tokens'):
            for dtype in (torch.float32, torch.float16):
                given = arguments(CASES[name], layout, 36, 1, dtype)
                yield run(CASES[name], *given)
    for name in test_norm.NAMES:
        for shape in ('planes', 'channels_last'):
            given, grad, _ = test_norm.make(name, *test_norm.SHAPES[shape], 1, torch.float32)
            y, grads = test_norm.run(name, given, grad)
            yield y, *(g for g in grads if g is not None)
    yield torch.ops.mmact.batch_statistics(torch.randn(4, 40, 30, 30), None, None, 0.1)


def test_the_order_of_threads_changes_no_bit():
    """A race in a block would show: threads and blocks run in an order that the seed decides."""
    LIBRARY.emulator_seed(0)
    first = list(results())
    assert len(first) > 6 * len(SOME_CASES)
    for seed in (1, 2):
        LIBRARY.emulator_seed(seed)
        for one, other in zip(first, results(), strict=True):
            assert all(map(same_bits, one, other))


def test_traffic():
    """Forward moves two tensors, backward three, and warps read whole sectors of memory.

    What a norm in front adds is in TENSORS.
    """
    rows = list(traffic.rows())
    assert len(rows) >= 88
    for what, forward, backward, coalesced in rows:
        needed = traffic.TENSORS.get(what[0], (2, 3))
        assert (round(forward, 3), round(backward, 3)) == needed, what
        # Planes of odd size begin within a sector, which two warps or two loads then read.
        assert coalesced >= (0.95 if '28x28' in what else 0.64), what
