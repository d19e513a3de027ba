# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""docs/adding_an_activation.md says what it takes to add an op: it is done here, word for word."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from marks import slow
from processes import run_code

from mmact.ops import has_kernel

from .utils import ROOT

HEAD = '// Copyright (c) mmact contributors.\n'
FILES = 5  # that a new op touches, its case apart


# The op's Python as a module beside the others, which checks it in its eager form.
EAGER = """
import importlib.util, sys
import torch
import mmact.ops

spec = importlib.util.spec_from_file_location('mmact.ops.parabola', sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
x, coefficients = torch.randn(2, 6, 3).double(), torch.randn(3, 2).double()
tensors = [x.requires_grad_(), coefficients.requires_grad_()]
a, b = coefficients.repeat_interleave(2, 0).T[:, :, None]
torch.testing.assert_close(module.parabola(x, coefficients), a * x + b * x * x)
assert torch.autograd.gradcheck(module.parabola, tensors)
"""


def test_the_python_of_the_docs_runs(tmp_path):
    doc = (ROOT / 'docs/adding_an_activation.md').read_text()
    file = tmp_path / 'parabola.py'
    file.write_text(re.search(r'```python\n# mmact/ops/parabola.py\n(.+?)```', doc, re.DOTALL)[1])
    code = f'import sys, warnings; warnings.simplefilter("ignore"); sys.argv = ["", {str(file)!r}]'
    status, printed = run_code(tmp_path, code + EAGER)
    assert status == 0, printed


def test_the_settings_of_the_docs_have_what_all_settings_have():
    """What is renamed in the formulas is renamed in the docs, without a compiler."""
    doc = (ROOT / 'docs/adding_an_activation.md').read_text()
    formulas = [path.read_text() for path in (ROOT / 'csrc/formulas').glob('*.h')]
    theirs = [members for text in formulas for members in _members(text)]
    (ours,) = _members(doc)
    assert len(theirs) > 5
    assert set.intersection(*theirs) <= ours <= set.union(*theirs)


def _members(text: str) -> list[set[str]]:
    """Names of the constants and functions of each settings in a file."""
    structs = re.findall(r'^struct \w+Settings {\n(.+?)\n};', text, re.DOTALL | re.MULTILINE)
    return [
        set(re.findall(r'\bk[A-Z]\w+(?= =)', struct))
        | set(re.findall(r'^  MMACT_HD \S+ (\w+)\(', struct, re.MULTILINE))
        for struct in structs
    ]


@slow
@pytest.mark.skipif(not has_kernel('pwlu', 'cpu'), reason='needs a compiler for kernels')
def test_an_op_from_the_docs_builds_and_passes_its_case(tmp_path):
    doc = (ROOT / 'docs/adding_an_activation.md').read_text()
    blocks = dict(re.findall(r'```(?:cpp|python)\n(?://|#) (\S+)\n(.+?)```', doc, re.DOTALL))
    assert len(re.findall(r'^\d\. \*\*', doc, re.MULTILINE)) == FILES
    for name in ('mmact', 'csrc', 'tests/test_ops'):
        ignored = shutil.ignore_patterns('__pycache__', '_C*', '.mim', *_other_ops())
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(ROOT / 'tests/marks.py', tmp_path)
    case = blocks.pop('tests/test_ops/cases.py')
    with (tmp_path / 'tests/test_ops/cases.py').open('a') as file:
        file.write(case)
    for name, code in blocks.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(code)
    # The new formula alone: building those that there are shows nothing. PyTorch's headers, which
    # take longer than all else, are read once.
    kernels = tmp_path / 'csrc/cpu/kernels.inc'
    kernels.write_text(kernels.read_text().replace('#include "dyrelu_kernel.h"\n', ''))
    (tmp_path / 'csrc/ops/autograd.cpp').rename(tmp_path / 'csrc/ops/autograd.inc')
    (op,) = (tmp_path / name for name in blocks if name.endswith('.cpp'))
    with op.open('a') as file:
        file.write('#include "autograd.inc"\n')
    include, use = (re.search(p, doc)[0] for p in ('#include "[a-z]+.h"(?=`)', r'use\(\w+\);'))
    (tmp_path / 'csrc/formulas/all.h').write_text(
        f'#pragma once\n{include}\n#define MMACT_FOR_EACH_SETTINGS(use) {use}\n'
    )
    environment = {
        **os.environ,
        'MMACT_CUDA': '0',
        'MMACT_KERNELS': '1',
        'PYTHONPATH': os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]),
    }

    def run(*command):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    run('setup.py', '-q', 'build_ext', '--inplace')
    printed = run(
        '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/test_ops/test_elementwise.py',
        '-k', 'parabola and not cuda', '-c', os.devnull, '--rootdir', str(tmp_path),
        '-o', 'markers=cuda: needs a GPU',
    )  # fmt: skip
    assert int(re.search(r'(\d+) passed', printed)[1]) >= 8


def _other_ops():
    """The ops that stay behind."""
    return [p.name for p in (ROOT / 'csrc/ops').glob('*.cpp') if 'MMACT_REGISTER' in p.read_text()]
