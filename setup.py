# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Builds mmact with its compiled kernels. Environment variables:

MMACT_CUDA: ``1`` builds the CUDA kernels or fails, ``0`` does not, ``auto`` (the default) builds
    them if a CUDA build of torch and a fitting nvcc are there. Whether this machine has a GPU does
    not matter. TORCH_CUDA_ARCH_LIST chooses the architectures, as for every PyTorch extension.
MMACT_KERNELS: ``1`` builds kernels or fails, ``0`` makes a pure Python package, which runs on the
    eager ops, ``auto`` (the default) builds them if torch and a C++ compiler are there.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Of no use without a clone.
LEFT_OUT = shutil.ignore_patterns('__pycache__', 'dataset_converters', 'demo.sh', 'lint.sh')
VERSION = runpy.run_path(str(ROOT / 'mmact' / 'version.py'))['__version__']


def switch(name: str, missing: list[str]) -> bool:
    """Whether to build a part, from its environment variable and what is missing for it."""
    choice = os.environ.get(name, 'auto')
    if choice not in ('0', '1', 'auto'):
        sys.exit(f'{name} must be 0, 1 or auto, got {choice!r}')
    if choice == '1' and missing:
        sys.exit(f'{name}=1, but there is no {" and no ".join(missing)}')
    return choice != '0' and not missing


def missing_for_kernels() -> list[str]:
    """What is needed to build any kernels and is not there."""
    missing = []
    try:
        import torch  # noqa: F401
    except ImportError:
        missing.append('torch (build with --no-build-isolation where it is installed)')
    if not shutil.which(os.environ.get('CXX', 'c++').split()[0]):
        missing.append('C++ compiler (install g++, or set CXX)')
    return missing


def find_cuda_home() -> None:
    """Sets CUDA_HOME to the toolkit that nvcc itself says it belongs to.

    torch takes the folder above nvcc, which is wrong where nvcc on the PATH is a script or link.
    """
    nvcc = shutil.which('nvcc')
    if nvcc is None or 'CUDA_HOME' in os.environ or 'CUDA_PATH' in os.environ:
        return
    command = [nvcc, '--dryrun', '-x', 'cu', '-c', os.devnull, '-o', os.devnull]
    text = subprocess.run(command, capture_output=True, text=True).stderr
    top = re.search(r'TOP=(.+)', text)
    if top is not None:
        os.environ['CUDA_HOME'] = str(Path(top[1].strip()).resolve())


def missing_for_cuda() -> list[str]:
    """What is needed to build the CUDA kernels and is not there."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return ['CUDA build of torch (this one is for the CPU)']
    nvcc = Path(CUDA_HOME or '', 'bin', 'nvcc')
    if not nvcc.exists():
        return ['nvcc (install the CUDA toolkit or set CUDA_HOME)']
    version = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
    release = re.search(r'release (\d+)\.', version)
    wanted = torch.version.cuda.split('.')[0]
    if release is None or release[1] != wanted:
        found = release[1] if release else 'unknown'
        return [f'nvcc of CUDA {wanted}, which torch was built with (found CUDA {found})']
    return []


def kernels() -> dict:
    """Arguments of setup() that build the kernels; none where there are to be none."""
    if not switch('MMACT_KERNELS', missing_for_kernels()):
        print('mmact: building no kernels; the eager ops will run', flush=True)
        return {}
    find_cuda_home()  # before torch looks for it
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    cuda = switch('MMACT_CUDA', missing_for_cuda())
    print(f'mmact: building kernels for the CPU{" and CUDA" if cuda else " only"}', flush=True)
    folders = ['csrc', 'csrc/cpu'] + (['csrc/cuda'] if cuda else [])
    sources = sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).iterdir()
        if path.suffix in ('.cpp', '.cu')
    )
    # No -ffast-math anywhere: NaN and infinities have defined results here. The uninitialised
    # values that GCC sees are in its own AVX-512 header.
    cxx = [
        '-O3',
        '-std=c++17',
        '-fvisibility=hidden',
        '-Wall',
        '-Wno-psabi',
        '-Wno-unknown-pragmas',
    ]
    # at::parallel_for is a header: without OpenMP it is a plain loop. Its run-time library is not
    # linked but found in torch at load time, so that there is one pool of threads, of torch's size.
    cxx += ['-Wno-maybe-uninitialized', '-fopenmp']
    if cuda:
        # Architectures are chosen explicitly, not from the GPU of the machine that builds.
        os.environ.setdefault('TORCH_CUDA_ARCH_LIST', '8.0;9.0+PTX')
        nvcc = ['-O3', '-std=c++17']
        module = CUDAExtension(
            'mmact._C',
            sources,
            include_dirs=pip_cuda_includes(),
            extra_compile_args={'cxx': cxx, 'nvcc': nvcc},
        )
    else:
        module = CppExtension('mmact._C', sources, extra_compile_args={'cxx': cxx})
    return {'ext_modules': [module], 'cmdclass': {'build_ext': BuildExtension}}


def pip_cuda_includes() -> list[str]:
    """The CUDA headers of pip's nvidia packages, for toolkits that come without the libraries'."""
    import torch

    site = Path(torch.__file__).resolve().parent.parent
    return [str(path) for path in site.glob('nvidia/*/include') if path.is_dir()]


class BuildPython(build_py):
    """Puts configs, tools and the model index where OpenMMLab's tools look: ``mmact/.mim``."""

    def run(self) -> None:
        super().run()
        package = ROOT / 'mmact' if self.editable_mode else Path(self.build_lib) / 'mmact'
        target = package / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if self.editable_mode:
                (target / name).symlink_to(ROOT / name)
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)
            else:
                shutil.copy(ROOT / name, target / name)


options = kernels()
options['cmdclass'] = {'build_py': BuildPython, **options.get('cmdclass', {})}
setup(
    name='mmact',
    version=VERSION,
    description='Learnable and dynamic activation functions for OpenMMLab and PyTorch',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmact', 'mmact.*']),
    install_requires=['torch>=2.6'],
    **options,
)
