# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of the ops on CPU kernels under AddressSanitizer and UBSan: `make asan`.

For each instruction set that this machine has. Prints pytest's last line and the number of reports
of each, the reports themselves, and exits with status 1 if there is one. Needs g++ on x86-64.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'build/sanitized'
LEVELS = {'default': 'DEFAULT', 'avx2': 'AVX2', 'avx512': 'AVX512'}
# All that run on kernels. What needs a process of its own would start it without the sanitizers'
# libraries in the right place, and is about the choice of kernels.
TESTS = [
    *('test_extremes', 'test_elementwise', 'test_arelu', 'test_cpab', 'test_dyrelu', 'test_pau'),
    *('test_pwlu', 'test_norm'),
]
LEFT_OUT = 'not instruction_set and not kernels and not fallback and not compile and not determin'
FLAGS = [
    *('-std=c++17', '-O1', '-g1', '-fPIC', '-fvisibility=hidden', '-w'),
    # Reports are counted: a test goes on after one.
    *('-fsanitize=address,undefined', '-fsanitize-recover=all', '-fno-sanitize=vptr'),
    '-fno-omit-frame-pointer',
]


def build() -> None:
    """Copies what the tests need, and builds the kernels for it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name in ('mmact', 'tests', 'csrc'):
        ignored = shutil.ignore_patterns('*.so', '.mim', '__pycache__', 'cuda_emulator')
        shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored)
    for name in ('conftest.py', 'pyproject.toml'):
        shutil.copy(ROOT / name, FOLDER / name)
    csrc = FOLDER / 'csrc'
    sources = [p for folder in ('.', 'cpu', 'ops') for p in sorted((csrc / folder).glob('*.cpp'))]
    includes = [f'-isystem{p}' for p in (*include_paths(), sysconfig.get_path('include'))]
    abi = f'-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}'

    def compile_one(source: Path) -> str:
        out = str(source.with_suffix('.o'))
        # OpenMP's library is torch's own, as in setup.py.
        command = ['g++', *FLAGS, '-fopenmp', *includes, abi, '-c', str(source), '-o', out]
        subprocess.run(command, check=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    library = FOLDER / 'mmact' / f'_C{sysconfig.get_config_var("EXT_SUFFIX")}'
    libraries = [f'-L{Path(torch.__file__).parent / "lib"}', '-lc10', '-ltorch_cpu', '-ltorch']
    subprocess.run(['g++', '-shared', *FLAGS, *objects, '-o', str(library), *libraries], check=True)


def run(level: str, select: str) -> int:
    """Runs the tests on an instruction set; returns how many reports there were."""
    logs = FOLDER / f'log_{level}'
    found = [
        subprocess.run(['gcc', f'-print-file-name={n}'], capture_output=True, text=True).stdout
        for n in ('libasan.so', 'libubsan.so')
    ]
    options = f'log_path={logs}:print_stacktrace=1:log_exe_name=0'
    environment = {
        **os.environ,
        'LD_PRELOAD': ' '.join(map(str.strip, found)),
        'ASAN_OPTIONS': f'detect_leaks=0:halt_on_error=0:{options}',
        'UBSAN_OPTIONS': options,
        'ATEN_CPU_CAPABILITY': level,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': str(FOLDER),
    }
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--durations=0']
    command += ['--durations-min=60', '-k', select, *(f'tests/test_ops/{t}.py' for t in TESTS)]
    process = subprocess.run(
        command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    text = ''.join(path.read_text() for path in sorted(FOLDER.glob(f'{logs.name}.*')))
    reports = re.findall(r'ERROR: AddressSanitizer.*|.*runtime error:.*', text)
    last = process.stdout.strip().rpartition('\n')[2]
    print(f'{LEVELS[level]}: {last}; {len(reports)} reports', flush=True)
    if process.returncode:
        print(process.stdout[-4000:])
    if reports:
        print(text[:20000])
    return len(reports) + process.returncode


def main() -> None:
    """Builds, runs, and tells."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--levels', nargs='+', choices=[*LEVELS], default=[*LEVELS])
    parser.add_argument('-k', default=LEFT_OUT, help="pytest's -k")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / 'tests'))
    from test_ops.utils import cpu_supports

    build()
    missing = [level for level in args.levels if not cpu_supports(level)]
    for level in missing:
        print(f'{LEVELS[level]}: not on this CPU')
    results = [run(level, args.k) for level in args.levels if level not in missing]
    sys.exit(any(results))


if __name__ == '__main__':
    main()
