# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The common part of the tests of all ops: memory layouts, random arguments, and comparing.

Everything takes a device, so that the CPU's and the GPU's tests are the same checks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

#: PyTorch's version, (major, minor).
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
ROOT = Path(__file__).resolve().parents[2]
# Where tests marked `cuda` run.
GPU = 'cpu' if os.environ.get('MMACT_EMULATED_CUDA') else 'cuda'
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Names of the parameters of mmact.ops.pwlu, in order; its gradients are x's and theirs.
PWLU_PARAMETERS = ('left_bound', 'right_bound', 'left_slope', 'right_slope', 'points')


#: Half precisions of PyTorch's own layers and of autocast on CPUs: torch 2.1 has no float16 there.
HALF_LAYERS = (torch.float16, torch.bfloat16) if TORCH >= (2, 4) else (torch.bfloat16,)
needs_opcheck = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'), reason='torch.library.opcheck came with torch 2.4'
)


# Values of ATEN_CPU_CAPABILITY, and what torch calls them (torch 2.1 says NO AVX for DEFAULT).
CPU_LEVELS = {
    'default': 'DEFAULT' if TORCH >= (2, 2) else 'NO AVX',
    'avx2': 'AVX2',
    'avx512': 'AVX512',
}


def cpu_supports(level: str) -> bool:
    """Whether this machine runs a level of ATEN_CPU_CAPABILITY that can be asked for."""
    own = [*CPU_LEVELS.values()].index(torch.backends.cpu.get_cpu_capability())
    # The capability of this process may have been lowered by the environment variable.
    # Before torch 2.2 it does not tell what the CPU has.
    if own < 2 and getattr(torch.cpu, '_is_avx512_supported', bool)():
        own = 2
    elif own < 1 and getattr(torch.cpu, '_is_avx2_supported', bool)():
        own = 1
    return [*CPU_LEVELS].index(level) <= own


def skip_level(level: str) -> None:
    """Skips a test on a level that this CPU lacks, or that all other tests run on."""
    if not cpu_supports(level):
        pytest.skip(f'this CPU has no {CPU_LEVELS[level]}')
    if torch.backends.cpu.get_cpu_capability() == CPU_LEVELS[level]:
        pytest.skip(f'all other tests run on {CPU_LEVELS[level]}')


# Layouts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A shape with C channels somewhere, and how its elements lie in memory.

    Args:
        shape: Gives the shape for C channels.
        channel_dim: Dimension of the channels; None if there is none (layer-wise functions only).
        place: Returns a tensor equal to its argument that lies in memory as the layout's name says.
    """

    shape: Callable[[int], tuple[int, ...]]
    channel_dim: int | None
    place: Callable[[Tensor], Tensor]


def _as_given(t: Tensor) -> Tensor:
    return t.contiguous()


def _every_second(t: Tensor) -> Tensor:
    """A view of every second element of a larger tensor, in all dimensions."""
    wide = t.new_full([2 * n + 1 for n in t.shape], float('nan'))
    view = wide[tuple(slice(1, 2 * n, 2) for n in t.shape)]
    view.copy_(t)
    return view


def _part_of_channels(t: Tensor) -> Tensor:
    """Channels 1 to C of a tensor of C + 3: what a split or a slice of a feature map is."""
    b, c, *rest = t.shape
    view = t.new_full((b, c + 3, *rest), float('nan'))[:, 1 : c + 1]
    view.copy_(t)
    return view


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def _memory_format(memory_format: torch.memory_format) -> Callable[[Tensor], Tensor]:
    return lambda t: t.contiguous(memory_format=memory_format)


def _expanded(t: Tensor) -> Tensor:
    """Equal rows that lie in memory once (strides of 0). Takes its values from the first row."""
    return t[:1].clone().expand_as(t)


LAYOUTS = {
    'nchw': Layout(lambda c: (2, c, 5, 7), 1, _as_given),
    'nchw_one_pixel': Layout(lambda c: (3, c, 1, 1), 1, _as_given),
    'channels_last': Layout(lambda c: (2, c, 5, 7), 1, _memory_format(torch.channels_last)),
    'channels_last_3d': Layout(
        lambda c: (2, c, 3, 2, 5), 1, _memory_format(torch.channels_last_3d)
    ),
    'ncdhw': Layout(lambda c: (2, c, 3, 2, 5), 1, _as_given),
    'ncl': Layout(lambda c: (3, c, 11), 1, _as_given),
    'tokens': Layout(lambda c: (2, 13, c), -1, _as_given),
    'nhwc': Layout(lambda c: (2, 3, 5, c), 3, _as_given),
    'rows': Layout(lambda c: (9, c), 1, _as_given),
    'vector': Layout(lambda c: (c,), 0, _as_given),
    'channels_first': Layout(lambda c: (c, 6, 3), 0, _as_given),
    'every_second': Layout(lambda c: (2, c, 5, 3), 1, _every_second),
    'part_of_channels': Layout(lambda c: (2, c, 4, 5), 1, _part_of_channels),
    'transposed': Layout(lambda c: (2, c, 9), 1, _transposed),
    'transposed_tokens': Layout(lambda c: (2, 9, c), -1, _transposed),
    'expanded': Layout(lambda c: (4, c, 3, 3), 1, _expanded),
    'scalar': Layout(lambda c: (), None, _as_given),
}


# Arguments ----------------------------------------------------------------------------------------


def generator(seed: int, device: str = 'cpu') -> torch.Generator:
    """A random generator of its own: no test depends on which ones ran before it."""
    return torch.Generator(device).manual_seed(seed)


def random_tensor(
    shape: Sequence[int], dtype: torch.dtype = torch.float64, device: str = 'cpu', seed: int = 0
) -> Tensor:
    """Normal random numbers, the same on every device."""
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed)).to(device, dtype)


def pwlu_parameters(g: torch.Generator, groups: int, num_intervals: int) -> tuple[Tensor, ...]:
    """Random float64 parameters of a PWLU, other bounds for each group, in the order of the op."""

    def uniform(shape, low, high):
        return torch.rand(shape, dtype=torch.float64, generator=g) * (high - low) + low

    left = uniform(groups, -3.5, -1.5)
    return (
        left,
        left + uniform(groups, 4, 7),
        uniform(groups, -0.5, 0.5),
        uniform(groups, 0.5, 1.5),
        uniform((groups, num_intervals + 1), -2, 2),
    )


def make_parameters(
    channels: int,
    num_intervals: int,
    dtype: torch.dtype = torch.float64,
    device: str = 'cpu',
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """The same in a dtype, on a device."""
    parameters = pwlu_parameters(generator(seed), channels, num_intervals)
    return tuple(p.to(device, dtype) for p in parameters)


def per_channel(parameter: Tensor, x: Tensor, channel_dim: int | None) -> Tensor:
    """A tensor with an entry for each group of channels, shaped to broadcast against x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return parameter.repeat_interleave(x.size(channel_dim) // parameter.numel()).reshape(shape)


def between_breakpoints(
    shape: Sequence[int],
    parameters: Sequence[Tensor],
    channel_dim: int | None,
    dtype: torch.dtype = torch.float64,
    device: str = 'cpu',
    seed: int = 0,
) -> Tensor:
    """Inputs of a PWLU that fall into all segments, the outer ones too, away from their ends.

    At an end the derivative jumps, and rounding decides on which side an element lies: there only
    values can be compared (exact ends have tests of their own).
    """
    g = generator(seed)
    left, right, points = (parameters[i].double().cpu() for i in (0, 1, 4))
    n = points.size(1) - 1
    template = torch.empty(shape, dtype=torch.float64)
    segment = torch.randint(-max(2, n // 4), n + max(2, n // 4), tuple(shape), generator=g)
    share = 0.25 + 0.5 * torch.rand(shape, dtype=torch.float64, generator=g)
    length = per_channel((right - left) / n, template, channel_dim)
    left = per_channel(left, template, channel_dim)
    x = (left + (segment + share) * length).to(dtype)
    position = (x.double() - left) / length
    assert ((position - position.round()).abs() > 1e-2).all(), 'rounding moved x to an end'
    return x.to(device)


# Comparing ----------------------------------------------------------------------------------------


def with_gradients(
    function: Callable[..., Tensor], x: Tensor, parameters: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """(y, gradient of x, gradient of each parameter) of function(x, *parameters)."""
    # detach() keeps the memory layout, which a clone of a strided tensor does not.
    inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
    y = function(*inputs)
    return (y.detach(), *torch.autograd.grad(y, inputs, grad))


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and the largest expected magnitude.

    NaN where the two do not have NaN and infinities in the same places.
    """
    assert actual.shape == expected.shape, f'{actual.shape} instead of {expected.shape}'
    if actual.numel() == 0:
        return 0.0
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    return torch.where(same, 0.0, (actual - expected).abs()).max().item() / scale


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, what: str = '') -> None:
    """Fails, with the measured figure, if error() is above the tolerance or NaN."""
    measured = error(actual, expected)
    assert measured <= tolerance, f'{what}: error {measured:.3g} is above {tolerance:.3g}'


@dataclass(frozen=True)
class Tolerance:
    """Largest error() allowed, for results in x's dtype and for gradients of parameters."""

    elements: float
    sums: float


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of dtype, shape and every bit of the elements, NaN included."""
    as_bytes = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*as_bytes)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter that finds mmact and the tests; the output is kept."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
