# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Installs where kernels can, cannot or must be built, and their requirements."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
import torch
from marks import every_second, slow
from test_ops.utils import ROOT, run_python

import mmact


@pytest.fixture
def source(tmp_path):
    """A copy of the sources, in which anything may be broken."""
    copy = tmp_path / 'source'
    left_out = shutil.ignore_patterns(
        '.*', 'build', 'data', 'dist', 'work_dirs', '*.so', '*.egg-info', 'no_kernels.txt'
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


PIP = ('-m', 'pip', '--disable-pip-version-check', 'wheel', '-v', '--no-build-isolation')


def build(source, out, *, pip=False, **environment):
    """Builds a wheel: by pip, which runs setup.py three times, or by setup.py itself."""
    by_pip = [*PIP, '--no-deps', '-w', str(out), str(source)]
    return subprocess.run(
        [sys.executable, *(by_pip if pip else ['setup.py', 'bdist_wheel', '-d', str(out)])],
        env={**os.environ, 'MMACT_CUDA': '0', **environment},
        cwd=source,
        capture_output=True,
        text=True,
    )


def unpack(wheel, site):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def warnings_of_use(site):
    """The warnings about mmact when an op of an unpacked wheel is used twice, in a new process."""
    script = (
        # An editable install of mmact would lend the wheel its kernels.
        'import sys\n'
        'sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in repr(f)]\n'
        'import warnings, torch; warnings.simplefilter("always")\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    import mmact\n'
        f'    assert mmact.__file__.startswith({str(site)!r}), mmact.__file__\n'
        '    x = torch.randn(2, 3, requires_grad=True)\n'
        '    for _ in range(2):\n'
        '        mmact.activations.PAU()(x).sum().backward()\n'
        'assert x.grad.isfinite().all()\n'
        'print(*(w.message for w in caught if "mmact" in str(w.message)), sep="\\n")'
    )
    result = subprocess.run(
        [sys.executable, '-c', script],
        cwd=site,
        env={**os.environ, 'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split('\n')[:-1]


def break_kernels(source):
    for file in (source / 'csrc').rglob('*.c*'):
        file.unlink()  # compiled first, they would take minutes
    (source / 'csrc/extension.cpp').write_text('#error "nothing compiles this"\n')


def test_a_failed_build_leaves_a_package_that_says_why(source, tmp_path):
    break_kernels(source)
    result = build(source, tmp_path, pip=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob('mmact-*.whl')
    unpack(wheel, tmp_path / 'site')
    assert not list((tmp_path / 'site/mmact').glob('_C*'))
    (line,) = warnings_of_use(tmp_path / 'site')
    assert 'their build failed (' in line
    assert 'pip install -v --no-build-isolation .' in line


@pytest.mark.parametrize('variable', every_second(['MMACT_KERNELS', 'MMACT_CUDA']))
def test_a_failed_build_of_wanted_kernels_is_an_error(source, tmp_path, variable):
    break_kernels(source)
    result = build(source, tmp_path, **{variable: '1'})
    assert result.returncode != 0
    assert not list(tmp_path.glob('mmact-*.whl'))


@slow
def test_without_a_compiler(source, tmp_path):
    result = build(source, tmp_path, CXX='no-such-compiler')
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob('mmact-*-py3-none-any.whl')
    unpack(wheel, tmp_path / 'site')
    (line,) = warnings_of_use(tmp_path / 'site')
    assert 'no C++ compiler (install g++ or clang++, or set CXX)' in line
    result = build(source, tmp_path, CXX='no-such-compiler', MMACT_KERNELS='1')
    assert result.returncode != 0
    assert 'MMACT_KERNELS=1, but there is no C++ compiler' in result.stdout + result.stderr


@slow
@pytest.mark.parametrize(
    ('says', 'flags', 'not_flags'),
    [
        ('Apple clang version 17.0.0', ['-O3'], ['-fopenmp', '-Wno-maybe-uninitialized']),
        ('g++ 12\nFree Software Foundation', ['-O3', '-fopenmp'], []),
    ],
)
def test_flags_are_those_of_the_compiler(source, tmp_path, says, flags, not_flags):
    """A compiler that tells its name and writes down how it is called."""
    compiler = tmp_path / 'compiler'
    compiler.write_text(
        '#!/bin/sh\n'
        f'case "$*" in *--version*) echo "{says}"; exit 0;; esac\n'
        f'echo "$*" >> {tmp_path}/calls\n'
        'exit 1\n'
    )
    compiler.chmod(0o755)
    result = build(source, tmp_path, CXX=str(compiler))
    assert result.returncode == 0, result.stdout + result.stderr
    calls = [line for line in (tmp_path / 'calls').read_text().split('\n') if 'csrc/' in line]
    assert calls
    for call in calls:
        words = call.split()
        assert set(flags) <= set(words)
        assert not set(not_flags) & set(words)
        # torch's own choice: C++17 of its older versions, C++20 of the newer.
        assert sum(word.startswith('-std=') for word in words) == 1


def test_metadata(source, tmp_path):
    result = build(source, tmp_path, pip=True, MMACT_KERNELS='0')
    assert result.returncode == 0, result.stdout + result.stderr
    assert not re.search('deprecat', result.stdout, re.IGNORECASE), result.stdout
    (wheel,) = tmp_path.glob('mmact-*-py3-none-any.whl')
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert (metadata['Name'], metadata['Version']) == ('mmact', mmact.__version__)
    assert metadata['License'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'
    required = [r for r in metadata.get_all('Requires-Dist') if 'extra ==' not in r]
    # Without a version, no install of mmact exchanges the torch that is there.
    assert sorted(required) == ['numpy', 'torch']
    extras = {'dev', 'docs', 'export', 'openmmlab', 'plot'}
    assert set(metadata.get_all('Provides-Extra')) == extras
    wanted = {r.partition(';')[0].strip() for r in metadata.get_all('Requires-Dist')}
    pinned = (ROOT / 'requirements/openmmlab.txt').read_text().split('\n')
    assert {line for line in pinned if line.startswith('onedl-')} <= wanted


def test_too_old_a_torch_is_named():
    result = run_python('import torch; torch.__version__ = "2.0.1+cpu"\nimport mmact')
    assert result.returncode != 0
    assert 'mmact needs torch 2.1 or later, found 2.0.1+cpu' in result.stderr


def test_versions_of_torch_matter_in_one_file():
    """Differences between versions of torch are in mmact/ops/_compat.py alone."""
    differs = re.compile(
        r'torch\.library\.(register_|impl_abstract|custom_op)|torch\.compiler\.|torch\.Tag'
        r'|torch\._dynamo|torch\.__version__|torch\.unravel_index'
    )
    for path in (ROOT / 'mmact').rglob('*.py'):
        if path.name != '_compat.py':
            assert not differs.search(path.read_text()), path


@pytest.mark.skipif(not hasattr(torch.library, 'register_autograd'), reason='it is what runs here')
def test_the_forms_for_old_torch_agree_with_those_of_now():
    """Every op with register_fake and register_autograd as torch 2.1 to 2.3 get them."""
    result = run_python(
        'import torch, torch.distributed.tensor\n'
        'del torch.library.register_fake, torch.library.register_autograd\n'
        'import mmact\n'
        'from mmact.ops import _compat\n'
        'assert _compat.register_autograd is _compat._register_autograd\n'
        'from test_ops.cases import CASES\n'
        'from test_ops.utils import assert_near, random_tensor, with_gradients\n'
        'for case in CASES.values():\n'
        '    x = random_tensor((2, 6, 5))\n'
        '    parameters = case.make(1, torch.float64)\n'
        '    call = lambda *t: case.call(*t, channel_dim=1)\n'
        '    actual = with_gradients(call, x, parameters, x)\n'
        '    for a, e in zip(actual, case.expected(x, x, parameters, 1), strict=True):\n'
        '        assert_near(a, e, 1e-9)\n'
        '    meta = case.call(x.to("meta"), *(p.to("meta") for p in parameters), channel_dim=1)\n'
        '    assert meta.shape == x.shape\n'
    )
    assert result.returncode == 0, result.stderr
