# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prints what each op's kernels would move on a GPU: python traffic.py [--markdown].

By op, layout and dtype: the traffic of forward and of backward, in tensors of the size of x, and
the share of the sectors of 32 bytes that the warps' accesses could not do without. Reads and writes
of x, its gradient and results are counted; tables and sums are not.
"""

import ctypes
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_ops.cases import CASES

from mmact import ops
from mmact.ops.norm import Norm

LIBRARY = os.environ['MMACT_EMULATED_CUDA']
FIELDS = ('launches', 'blocks', 'barriers', 'shuffles', 'read', 'written', 'sectors', 'fewest')
SHAPES = ((2, 64, 28, 28), (2, 60, 27, 27))  # whole vectors in memory, and not
# Tensors that forward and backward have to move. Behind a norm of the batch's own statistics, which
# are given, backward is two passes: x, grad (and the residual), the gradient of z; then x and that.
TENSORS = {'pwlu_norm': (2, 6), 'pwlu_norm_residual': (3, 7), 'pwlu_frozen_norm': (2, 3)}


def counts(counting: bool) -> dict[str, int]:
    """Returns the counts since the last call."""
    numbers = (ctypes.c_int64 * len(FIELDS))()
    ctypes.CDLL(LIBRARY).emulator_counts(numbers, counting)
    return dict(zip(FIELDS, numbers, strict=True))


def functions(channels, height):
    """(name, function of x) of every op, with parameters per channel where it has them."""
    for name in ('pwlu', 'arelu', 'piecewise_linear_2', 'pau', 'rpau', 'ditac_gelu'):
        case = CASES[name]
        parameters = case.make(channels if 'channel' in case.groups else 1, torch.float32)
        yield name, lambda x, c=case, p=parameters: c.call(x, *p, channel_dim=1)
    c, weight, bias = channels, torch.rand(channels) + 0.5, torch.randn(channels)
    pwlu = CASES['pwlu'].make(c, torch.float32)
    for name in TENSORS:
        residual = torch.randn(2, c, height, height) if 'residual' in name else None

        def behind_norm(x, residual=residual, constant='frozen' in name):
            if residual is not None:
                residual = torch.empty_like(x).copy_(residual)
            norm = Norm(torch.zeros(c), torch.ones(c), weight, bias, 1e-5, residual, constant)
            return ops.pwlu(x, *pwlu, 1, norm=norm)

        yield name, behind_norm
    coefficients, attention = torch.randn(2, 4, channels), torch.rand(2, 1, height, height)
    yield 'dyrelu', lambda x: ops.dyrelu(x, coefficients)
    yield 'dyrelu_attention', lambda x: ops.dyrelu(x, coefficients, attention.to(x.dtype))


def measure(function, shape, layout, dtype):
    """(tensors that forward moves, that backward moves, share of sectors that are needed)."""
    x = torch.randn(shape).to(dtype)
    if layout == 'channels_last':
        x = x.contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(x)
    x.requires_grad_()
    counts(True)
    y = function(x)
    forward = counts(True)
    torch.autograd.grad(y, x, grad)
    both = (forward, counts(False))
    size = x.numel() * x.element_size()
    moved = [(c['read'] + c['written']) / size for c in both]
    return *moved, sum(c['fewest'] for c in both) / sum(c['sectors'] for c in both)


def rows():
    """(what, tensors that forward moves, that backward moves, share of sectors) of everything."""
    for shape in SHAPES:
        for name, function in functions(*shape[1:3]):
            for layout in ('nchw', 'channels_last'):
                for dtype in (torch.float32, torch.float16):  # bfloat16 is as large
                    what = (name, f'{shape[2]}x{shape[3]}', layout, str(dtype)[len('torch.') :])
                    yield what, *measure(function, shape, layout, dtype)


def main() -> None:
    torch.ops.load_library(LIBRARY)
    markdown = '--markdown' in sys.argv
    if markdown:
        print('| op | plane | layout | dtype | forward | backward | coalesced |')
        print('|---|---|---|---|---|---|---|')
    for what, *numbers in rows():
        row = [*what, *(f'{v:.3f}' for v in numbers)]
        print('| ' + ' | '.join(row) + ' |' if markdown else ' '.join(row))


if __name__ == '__main__':
    main()
