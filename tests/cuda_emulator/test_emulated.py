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
from cuda_emulator import build

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(
        platform.machine() != 'x86_64' or not shutil.which('g++'), reason='needs g++ on x86-64'
    ),
]


def test_kernels_pass_the_tests_marked_cuda():
    """Some of them, in two dtypes, and those of inside.py, in a process of its own."""
    chosen = 'non_finite_ or sizes or empty or squeeze or segments or smaller_dtypes'
    left_out = ('deterministic', 'chunks', 'opcheck', 'stay_in', 'float64', 'bfloat16')
    result = subprocess.run(
        [
            sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
            'tests/test_ops', str(HERE / 'inside.py'), '-m', 'cuda',
            '-k', f'(({chosen}) and not {" and not ".join(left_out)}) or inside',
        ],
        env={**os.environ, 'MMACT_EMULATED_CUDA': str(build.build(two_dtypes=True))},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert int(re.search(r'(\d+) passed', result.stdout)[1]) > 100


FAULTS = {
    'if (threadIdx.x < 8) __syncthreads();': 'wait for others',
    'if (threadIdx.x < 8) __shfl_down_sync(0xffffffffu, 1, 1);': 'a lane that has ended',
    'shared[threadIdx.x + 2000] = 1;': 'beyond the shared memory',
    '': None,
}


def test_faults_are_found(tmp_path):
    """Each in a kernel of its own."""
    source = tmp_path / 'faults.cpp'
    kernels = ''.join(
        f'void kernel_{i}(int) {{\n'
        '  extern unsigned char mmact_block_memory[];\n'
        '  int* const shared = reinterpret_cast<int*>(mmact_block_memory);\n'
        f'  shared[threadIdx.x] = 1;\n  {fault}\n'
        '}\n'
        for i, fault in enumerate(FAULTS)
    )
    names = ', '.join(f'mmact::cuda::kernel_{i}' for i in range(len(FAULTS)))
    source.write_text(
        f'#include "{HERE}/emulator.cpp"\n#include <cstdio>\n'
        f'namespace mmact {{ namespace cuda {{\n{kernels}}}}}\n'
        'int main() {\n'
        '  cudaLaunchConfig_t config{dim3(2), dim3(64), 256, nullptr};\n'
        f'  for (void (*kernel)(int) : {{{names}}}) {{\n'
        '    try { cudaLaunchKernelEx(&config, kernel, 1); puts(""); }\n'
        '    catch (const std::exception& e) { puts(e.what()); }\n'
        '  }\n'
        '}\n'
    )
    program = tmp_path / 'faults'
    subprocess.run(['g++', '-std=c++17', str(source), '-o', str(program)], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    for line, message in zip(printed.splitlines(), FAULTS.values(), strict=True):
        assert message in line if message else not line
