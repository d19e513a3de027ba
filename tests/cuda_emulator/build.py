# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the CUDA kernels for the emulator: python tests/cuda_emulator/build.py [--sanitize].

Needs g++ on x86-64 and any build of torch. Prints the path of the library, which is built anew only
where a source or a header has changed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH_LIB = Path(torch.__file__).parent / 'lib'
# One set of flags for all files: they share templates.
COMMON = ['-std=c++17', '-O1', '-fPIC', '-fvisibility=hidden']
SANITIZE = ['-g', '-fsanitize=address,undefined', '-fno-sanitize=vptr', '-fno-omit-frame-pointer']
COMPILE = [
    *('-DMMACT_EMULATE_CUDA', '-Wall', '-Wno-unknown-pragmas', '-Wno-psabi'),
    *('-I', str(HERE / 'include')),
    *(f'-isystem{path}' for path in include_paths()),
    f'-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}',
]


# What is included before each source. Reading PyTorch's headers takes longer than compiling any of
# the sources, so that they are read once.
PRELUDE = f"""#include "{HERE}/emulator.h"
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>
"""


def precompile(folder: Path, sanitize: bool = False) -> Path:
    """Returns the header that every source begins with, compiled."""
    header = folder / 'prelude.h'
    header.write_text(PRELUDE)
    flags = [*COMMON, *(SANITIZE if sanitize else []), *COMPILE]
    command = ['g++', *flags, '-x', 'c++-header', str(header), '-o', f'{header}.gch']
    subprocess.run(command, check=True)
    return header


def compile_one(source: Path, out: Path, prelude: Path, sanitize: bool = False) -> None:
    """Compiles a source to an object."""
    flags = [*COMMON, *(SANITIZE if sanitize else []), *COMPILE]
    flags += ['-Winvalid-pch', '-Werror=invalid-pch', '-include', str(prelude)]
    subprocess.run(['g++', *flags, '-x', 'c++', '-c', str(source), '-o', str(out)], check=True)


def link(objects: list[str], library: Path, sanitize: bool = False) -> None:
    """Links objects, the first of which win where several have a template."""
    flags = ['-shared', *COMMON, *(SANITIZE if sanitize else [])]
    libraries = [f'-L{TORCH_LIB}', '-lc10', '-ltorch_cpu', '-ltorch']
    partial = library.with_suffix('.partial')
    subprocess.run(['g++', *flags, *objects, '-o', str(partial), *libraries], check=True)
    partial.rename(library)


def build(sanitize: bool = False, two_dtypes: bool = False) -> Path:
    """Returns the library of the project's kernels.

    Args:
        sanitize: With AddressSanitizer and UBSan.
        two_dtypes: Elementwise ops have kernels for float32 and float16 alone.
    """
    csrc = ROOT / 'csrc'
    sources = [*sorted(csrc.glob('cuda/*.cu')), *sorted(csrc.glob('ops/*.cpp'))]
    sources += [HERE / 'emulator.cpp', *([HERE / 'not_built.cpp'] if two_dtypes else [])]
    left_out = ('kernels_double.cu', 'kernels_bfloat16.cu') if two_dtypes else ()
    sources = [source for source in sources if source.name not in left_out]
    inputs = [*sorted(csrc.rglob('*.*')), *sorted(HERE.rglob('*.h')), *sorted(HERE.glob('*.cpp'))]
    state = hashlib.sha256(b''.join(path.read_bytes() for path in inputs if path.is_file()))
    state.update(f'{torch.__version__} {sanitize} {two_dtypes} {COMMON} {SANITIZE}'.encode())
    folder = ROOT / 'build/cuda_emulator' / state.hexdigest()[:12]
    library = folder / 'emulated.so'
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may ask: one builds, the others wait
        if not library.exists():
            _compile_all(sources, folder, library, sanitize)
    return library


def _compile_all(sources: list[Path], folder: Path, library: Path, sanitize: bool) -> None:
    objects = [folder / f'{source.name}.o' for source in sources]
    prelude = precompile(folder, sanitize)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda s, o: compile_one(s, o, prelude, sanitize), sources, objects))
    Path(f'{prelude}.gch').unlink()  # some hundred MB
    link([str(path) for path in objects], library, sanitize)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--sanitize', action='store_true', help='AddressSanitizer and UBSan')
    print(build(parser.parse_args().sanitize))
