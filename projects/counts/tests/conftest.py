# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the tools that write a page of counts; the module names its TOOL."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'tools/misc'


@pytest.fixture(scope='module')
def tool(request):
    """The tool's functions, which keep what they have counted."""
    sys.path.insert(0, str(FOLDER))
    try:
        return SimpleNamespace(**runpy.run_path(str(FOLDER / request.module.TOOL)))
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def check_page(request, tool, tmp_path, monkeypatch, capsys):
    """Fails unless the page in docs/ is current and ``--check`` and ``--out`` do what they say."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [request.module.TOOL, *map(str, arguments)])
        tool.main()

    def check():
        run('--check')
        text = tool.PAGE.read_text()
        monkeypatch.setitem(tool.main.__globals__, 'page', lambda: text)  # it takes seconds
        stale = tmp_path / 'counts.md'
        stale.write_text(text + '\n')
        for path in (stale, tmp_path / 'missing.md'):
            with pytest.raises(SystemExit, match=f'is not up to date: run .*{request.module.TOOL}'):
                run('--check', '--out', path)
        run('--out', stale)
        assert capsys.readouterr().out == f'{stale} written\n'
        assert stale.read_text() == text

    return check
