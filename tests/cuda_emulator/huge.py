# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the emulated kernels on more than 2^31 elements: python huge.py [OP/LAYOUT ...].

Needs 10 GB of memory, and minutes for each. x repeats a row of numbers whose length shares no
factor with a power of two, and so must y and x's gradient, to the bit; y itself is given for its
gradient. OP is pwlu, pau or dyrelu, LAYOUT planes, odd_planes, tokens or layer.
"""

import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_ops.cases import CASES
from test_ops.utils import assert_near

import mmact.ops  # noqa: F401  the ops

# (samples, channels, elements of a channel in a sample), channels last or not.
LAYOUTS = {
    'planes': ((2, 4, 2**28 + 520), False),
    'odd_planes': ((2, 3, 2**28 + 2**27 + 4099), False),
    'tokens': ((2, 33, 2**25 + 4099), True),
    'layer': ((1, 1, 2**31 + 4099), False),
}
PERIOD = 99991


def repeated(numbers, shape, last):
    """Numbers of shape (1, C, PERIOD) in a row, in a tensor of (B, C, N), or (B, N, C)."""
    samples, channels, size = shape
    out = torch.empty((samples, size, channels) if last else shape, dtype=numbers.dtype)
    for place, start in starts(shape):
        part = numbers[0, :, : size - start]
        view = out[place, start : start + PERIOD] if last else out[place, :, start : start + PERIOD]
        view.copy_(part.T if last else part)
    return out


def starts(shape):
    """(sample, place) of every repetition."""
    return ((b, start) for b in range(shape[0]) for start in range(0, shape[2], PERIOD))


def repeats(tensor, numbers, shape, last):
    """Whether a tensor holds the repeated numbers, to the bit."""
    numbers = numbers[0].T.contiguous() if last else numbers[0]
    for place, start in starts(shape):
        if last:
            part = tensor[place, start : start + PERIOD]
            wanted = numbers[: len(part)]
        else:
            part = tensor[place, :, start : start + PERIOD]
            wanted = numbers[:, : part.shape[-1]]
        if not torch.equal(part.view(torch.int16), wanted.view(torch.int16)):
            return False
    return True


def calls(op, channels):
    """(forward, backward) of an op, of x, or grad and x, and the dimension of the channels."""
    if op == 'dyrelu':
        c = torch.randn(1, 4, channels, generator=torch.Generator().manual_seed(1))

        def forward(x, dim):
            return torch.ops.mmact.dyrelu(x, c.expand(len(x), -1, -1), None, dim)

        def backward(grad, x, dim):
            gx, gc, _ = torch.ops.mmact.dyrelu_bwd(grad, x, c.expand(len(x), -1, -1), None, dim)
            return gx, gc.sum(0)

        return forward, backward
    case = CASES[op]
    parameters = case.make(channels, torch.float32)
    function = getattr(torch.ops.mmact, case.op)
    gradients = getattr(torch.ops.mmact, f'{case.op}_bwd')
    return (
        lambda x, dim: function(*case.op_arguments(x, *parameters, channel_dim=dim)),
        lambda grad, x, dim: gradients(grad, *case.op_arguments(x, *parameters, channel_dim=dim)),
    )


def check(op: str, layout: str) -> str:
    """Fails unless forward and backward are right; returns the times."""
    shape, last = LAYOUTS[layout]
    size, dim = shape[2], 2 if last else 1
    forward, backward = calls(op, shape[1])
    numbers = torch.randn(1, shape[1], PERIOD, generator=torch.Generator().manual_seed(0)).half()
    place = (lambda t: t.transpose(1, 2).contiguous()) if last else (lambda t: t)
    x = repeated(numbers, shape, last)
    started = time.monotonic()
    y = forward(x, dim)
    times = [time.monotonic() - started]
    expected = forward(place(numbers), dim)
    expected = expected.transpose(1, 2) if last else expected
    assert repeats(y, expected, shape, last), f'{op}, {layout}: y'
    del y
    started = time.monotonic()
    gx, *sums = backward(x, x, dim)
    times.append(time.monotonic() - started)
    one, *of_row = backward(place(numbers), place(numbers), dim)
    assert repeats(gx, one.transpose(1, 2) if last else one, shape, last), f'{op}, {layout}: gx'
    rest = place(numbers[..., : size % PERIOD].contiguous())
    _, *of_rest = backward(rest, rest, dim)
    for i, (total, row, end) in enumerate(zip(sums, of_row, of_rest, strict=True)):
        wanted = shape[0] * (size // PERIOD * row.double() + end.double())
        assert_near(total / wanted.abs().max(), wanted / wanted.abs().max(), 1e-5, f'{op}: sum {i}')
    return f'{x.numel()} elements: forward {times[0]:.0f} s, backward {times[1]:.0f} s'


def main() -> None:
    torch.ops.load_library(os.environ['MMACT_EMULATED_CUDA'])
    chosen = sys.argv[1:] or ['pwlu/odd_planes', 'pau/tokens', 'dyrelu/planes', 'pwlu/layer']
    for name in chosen:
        print(name, check(*name.split('/')), flush=True)


if __name__ == '__main__':
    main()
