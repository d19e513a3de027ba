# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Builds mmact with its compiled kernels.

MMACT_CUDA decides whether the CUDA kernels are built: ``1`` (build them, or fail), ``0`` (do not) or
``auto`` (the default: if a CUDA build of torch and nvcc are there). Whether this machine has a GPU
does not matter. TORCH_CUDA_ARCH_LIST chooses the architectures, as for every PyTorch extension.
MMACT_EXT=0 leaves out all kernels: a pure Python package, which runs on the eager ops.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(ROOT / 'mmact' / 'version.py'))['__version__']


def wants_cuda() -> bool:
    """Reads MMACT_CUDA and checks that what it asks for can be built."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    choice = os.environ.get('MMACT_CUDA', 'auto')
    if choice not in ('0', '1', 'auto'):
        sys.exit(f'MMACT_CUDA must be 0, 1 or auto, got {choice!r}')
    missing = []
    if torch.version.cuda is None:
        missing.append('a CUDA build of torch (this one is for the CPU)')
    if CUDA_HOME is None or not (shutil.which('nvcc') or Path(CUDA_HOME, 'bin', 'nvcc').exists()):
        missing.append('nvcc (install the CUDA toolkit or set CUDA_HOME)')
    if choice == '1' and missing:
        sys.exit('MMACT_CUDA=1, but there is no ' + ' and no '.join(missing))
    return choice != '0' and not missing


def extension():
    """The extension module and the command that builds it."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    cuda = wants_cuda()
    print(f'mmact: building kernels for the CPU{" and CUDA" if cuda else " only"}', flush=True)
    folders = ['csrc', 'csrc/cpu'] + (['csrc/cuda'] if cuda else [])
    sources = sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).iterdir()
        if path.suffix in ('.cpp', '.cu')
    )
    # No -ffast-math anywhere: NaN and infinities have defined results here.
    cxx = ['-O3', '-std=c++17', '-fvisibility=hidden', '-Wall', '-Wno-maybe-uninitialized', '-Wno-psabi', '-Wno-unknown-pragmas']
    if not cuda:
        module = CppExtension('mmact._C', sources, extra_compile_args={'cxx': cxx})
    else:
        # Architectures are chosen explicitly, not from the GPU of the machine that builds.
        os.environ.setdefault('TORCH_CUDA_ARCH_LIST', '8.0;9.0+PTX')
        module = CUDAExtension(
            'mmact._C',
            sources,
            include_dirs=pip_cuda_includes(),
            extra_compile_args={
                'cxx': [*cxx, '-DMMACT_WITH_CUDA'],
                'nvcc': ['-O3', '-std=c++17', '--extended-lambda', '--expt-relaxed-constexpr'],
            },
        )
    return {'ext_modules': [module], 'cmdclass': {'build_ext': BuildExtension}}


def pip_cuda_includes() -> list[str]:
    """The CUDA headers of pip's nvidia packages, for toolkits that come without the libraries'."""
    import torch

    site = Path(torch.__file__).resolve().parent.parent
    return [str(path) for path in site.glob('nvidia/*/include') if path.is_dir()]


options = {} if os.environ.get('MMACT_EXT') == '0' else extension()
setup(
    name='mmact',
    version=VERSION,
    description='Learnable and dynamic activation functions for OpenMMLab and PyTorch',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmact', 'mmact.*']),
    install_requires=['torch>=2.6'],
    **options,
)
