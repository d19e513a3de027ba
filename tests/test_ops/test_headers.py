# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every header stands alone: editors and clangd read one at a time."""

import shutil
import subprocess

import pytest

from .utils import ROOT

# Those without PyTorch, whose headers take seconds to read.
HEADERS = [
    path
    for folder in ('formulas', 'cpu')
    for path in sorted((ROOT / 'csrc' / folder).glob('*.h'))
    if 'host' not in path.name
]


@pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
def test_headers_stand_alone(tmp_path):
    for path in HEADERS:
        source = tmp_path / 'one.cpp'
        source.write_text(f'#include "{path}"\n#include "{path}"\n')
        command = ['g++', '-std=c++17', '-fsyntax-only', '-Wall', '-Wno-psabi', str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f'{path.name}: {result.stderr[-2000:]}'
        assert not result.stderr, f'{path.name}: {result.stderr[-2000:]}'
