# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Builds mmact's compiled kernels; what else there is to say of the package is in pyproject.toml.

Where kernels cannot be built, or their build fails, the package is installed without: it runs on
the eager ops, and its first warning tells the reason. Environment variables:

MMACT_CUDA: ``1`` builds the CUDA kernels or fails, ``0`` does not, ``auto`` (the default) builds
    them if a CUDA build of torch and a fitting nvcc are there. Whether this machine has a GPU does
    not matter. TORCH_CUDA_ARCH_LIST chooses the architectures, as for every PyTorch extension.
MMACT_KERNELS: ``1`` builds kernels or fails, ``0`` makes a pure Python package, which runs on the
    eager ops, ``auto`` (the default) builds them if torch and a C++ compiler are there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Of no use without a clone.
LEFT_OUT = shutil.ignore_patterns(
    *('__pycache__', 'dataset_converters', 'demo*.sh', 'lint.sh', 'gpu.sh', 'cuda_report.py'),
    *('test_stack.sh', 'make_wheels.sh', 'conversion_sweep.py'),
)
# In the installed package: why there are no kernels. Read by mmact/ops/_library.py.
REASON_FILE = 'no_kernels.txt'


def switch(name: str, missing: list[str]) -> bool:
    """Whether to build a part, from its environment variable and what is missing for it."""
    choice = os.environ.get(name, 'auto')
    if choice not in ('0', '1', 'auto'):
        sys.exit(f'{name} must be 0, 1 or auto, got {choice!r}')
    if choice == '1' and missing:
        sys.exit(f'{name}=1, but there is no {" and no ".join(missing)}')
    return choice != '0' and not missing


def compiler() -> str:
    """The C++ compiler that torch will call: ``'gcc'``, ``'clang'``, or empty for none of them."""
    command = os.environ.get('CXX', 'c++').split()
    if not shutil.which(command[0]):
        return ''
    result = subprocess.run([*command, '--version'], capture_output=True, text=True)
    text = result.stdout + result.stderr
    if 'clang' in text:
        return 'clang'
    return 'gcc' if 'Free Software Foundation' in text else ''


def missing_for_kernels() -> list[str]:
    """Returns the things that building any kernels needs and that are not there."""
    missing = []
    try:
        import torch
    except (ImportError, OSError):  # the latter for a library that it does not find
        missing.append('torch to build with (install it, then use --no-build-isolation)')
    else:
        if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 1):
            missing.append(f'torch from 2.1 on (found {torch.__version__})')
    if sys.platform == 'win32':
        # The code is for GCC and Clang; torch calls Microsoft's compiler.
        missing.append('compiler on Windows that they are written for')
    elif not compiler():
        missing.append('C++ compiler (install g++ or clang++, or set CXX)')
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
    """Returns the things that building the CUDA kernels needs and that are not there."""
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


def extension():
    """The extension module with the kernels."""
    find_cuda_home()  # before torch looks for it
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    cuda = switch('MMACT_CUDA', missing_for_cuda())
    print(f'mmact: building kernels for the CPU{" and CUDA" if cuda else " only"}', flush=True)
    folders = ['csrc', 'csrc/cpu', 'csrc/ops'] + (['csrc/cuda'] if cuda else [])
    sources = sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).iterdir()
        if path.suffix in ('.cpp', '.cu')
    )
    # The C++ standard is torch's own choice: its headers want C++17 in 2.11, C++20 in 2.14.
    # No -ffast-math anywhere: NaN and infinities have defined results here.
    cxx = ['-O3', '-fvisibility=hidden', '-Wall', '-Wno-psabi', '-Wno-unknown-pragmas']
    if compiler() == 'gcc':
        # at::parallel_for is a header: without OpenMP it is a plain loop. Its run-time library is
        # not linked but found in torch at load time, so that there is one pool of threads, of
        # torch's size. Clang's code would want a library that torch does not bring. The
        # uninitialised values that GCC sees are in its own AVX-512 header.
        cxx += ['-fopenmp', '-Wno-maybe-uninitialized']
    if not cuda:
        return CppExtension('mmact._C', sources, extra_compile_args={'cxx': cxx})
    # Architectures are chosen explicitly, not from the GPU of the machine that builds.
    os.environ.setdefault('TORCH_CUDA_ARCH_LIST', '8.0;9.0+PTX')
    return CUDAExtension(
        'mmact._C',
        sources,
        include_dirs=pip_cuda_includes(),
        define_macros=[('MMACT_CUDA', None)],
        extra_compile_args={'cxx': cxx, 'nvcc': ['-O3']},
    )


def pip_cuda_includes() -> list[str]:
    """The CUDA headers of pip's nvidia packages, for toolkits that come without the libraries'."""
    import torch

    site = Path(torch.__file__).resolve().parent.parent
    return [str(path) for path in site.glob('nvidia/*/include') if path.is_dir()]


def say_why(package: Path, reason: str) -> None:
    """Leaves the reason for having no kernels in the package, or none if it is empty."""
    path = package / REASON_FILE
    path.unlink(missing_ok=True)
    if reason:
        print(f'mmact: no compiled kernels: {reason}', flush=True)
        path.write_text(reason)


class BuildPython(build_py):
    """Puts configs, tools and the model index where OpenMMLab's tools look: ``mmact/.mim``."""

    def run(self) -> None:
        super().run()
        package = ROOT / 'mmact' if self.editable_mode else Path(self.build_lib) / 'mmact'
        say_why(package, REASON)
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


def build_kernels(base: type) -> type:
    """torch's command that builds extensions, after whose failure there is a package all the same.

    A failure stays one where kernels were asked for: by an environment variable, or by name.
    """
    asked = '1' in (os.environ.get('MMACT_KERNELS'), os.environ.get('MMACT_CUDA'))

    class BuildKernels(base):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if asked or 'build_ext' in sys.argv:
                    raise
                package = ROOT if self.inplace else Path(self.build_lib)
                say_why(
                    package / 'mmact', f'their build failed ({error}); pip install -v shows how'
                )
                self.extensions = []

    return BuildKernels


REASON = ''
options = {'cmdclass': {'build_py': BuildPython}}
# A pure package is made without looking for torch, which takes seconds to import.
missing = [] if os.environ.get('MMACT_KERNELS') == '0' else missing_for_kernels()
if switch('MMACT_KERNELS', missing):
    options['ext_modules'] = [extension()]
    # After extension(), which says where CUDA is before torch guesses.
    from torch.utils.cpp_extension import BuildExtension

    options['cmdclass']['build_ext'] = build_kernels(BuildExtension)
elif os.environ.get('MMACT_KERNELS') != '0':
    REASON = f'the package was built where there was no {" and no ".join(missing)}'
setup(license='Apache-2.0', **options)
