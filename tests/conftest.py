# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What tests of several folders share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable[[Path], Callable]:
    """Loads a tool of tools/, to be run in this process with a command line of its own.

    The function it returns gives (exit status, standard output, standard error), and has the
    tool's module as ``tool``.
    """

    def load(path: Path) -> Callable[..., tuple[int, str, str]]:
        spec = importlib.util.spec_from_file_location(f'tool_{path.stem}', path)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)

        def call(*args: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, 'argv', [str(path), *map(str, args)])
            status = 0
            try:
                tool.main()
            except SystemExit as end:
                status = end.code
            return (status, *capsys.readouterr())

        call.tool = tool
        return call

    return load
