# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels on the CPU: `make cuda-emulated` runs all tests marked `cuda` so, this some."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(
        platform.machine() != 'x86_64' or not shutil.which('g++'), reason='needs g++ on x86-64'
    ),
    pytest.mark.xdist_group('cuda_emulator'),  # of several workers one builds the library
]


@pytest.fixture(scope='module')
def library():
    """The library of the emulated kernels; built where it does not exist."""
    command = [sys.executable, str(HERE / 'build.py')]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.split()[-1]


def run(library, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, 'MMACT_EMULATED_CUDA': library, **environment},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def test_kernels_pass_the_tests_marked_cuda(library):
    chosen = 'nchw or channels_last or sizes or empty or misaligned or squeeze or edges'
    result = run(
        library, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'cuda', 'tests/test_ops',
        '-k', f'({chosen}) and not deterministic and not chunks',
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.search(r'(\d+) passed', result.stdout)[1]) > 100


def test_the_order_of_threads_changes_no_bit(library):
    """A race in a block would show: threads and blocks run in an order that the seed decides."""
    outputs = {
        run(library, str(HERE / 'digest.py'), MMACT_EMULATOR_SEED=str(seed)).stdout
        for seed in range(3)
    }
    assert len(outputs) == 1
    assert outputs.pop().strip()


def test_traffic(library):
    """Forward moves two tensors, backward three, and warps read whole sectors of memory."""
    result = run(library, str(HERE / 'traffic.py'))
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert len(rows) >= 90
    for *what, forward, backward, coalesced in rows:
        assert float(forward) == 2, what
        assert float(backward) == 3, what
        # Planes of odd size begin within a sector, which two warps or two loads then read.
        assert float(coalesced) >= (0.95 if '28x28' in what else 0.64), what


@pytest.mark.parametrize(
    ('kernel', 'message'),
    [
        ('if (threadIdx.x < 8) __syncthreads();', 'wait for others'),
        ('if (threadIdx.x < 8) __shfl_down_sync(0xffffffffu, 1, 1);', 'a lane that has ended'),
        ('shared[threadIdx.x + 2000] = 1;', 'beyond the shared memory'),
        ('', None),
    ],
)
def test_faults_are_found(kernel, message, tmp_path):
    """Each in a kernel of its own."""
    source = tmp_path / 'fault.cpp'
    source.write_text(
        f'#include "{HERE}/emulator.cpp"\n#include <cstdio>\n'
        'namespace mmact { namespace cuda {\n'
        'void kernel(int) {\n'
        '  extern unsigned char mmact_block_memory[];\n'
        '  int* const shared = reinterpret_cast<int*>(mmact_block_memory);\n'
        f'  shared[threadIdx.x] = 1;\n  {kernel}\n'
        '}\n}}\n'
        'int main() {\n'
        '  cudaLaunchConfig_t config{dim3(2), dim3(64), 256, nullptr};\n'
        '  try { cudaLaunchKernelEx(&config, mmact::cuda::kernel, 1); }\n'
        '  catch (const std::exception& e) { puts(e.what()); }\n'
        '}\n'
    )
    program = tmp_path / 'fault'
    subprocess.run(['g++', '-std=c++17', str(source), '-o', str(program)], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert message in printed if message else not printed
