# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Processes of tests that need several, or one to be killed.

They are forked from a server that imports what takes seconds once, and has used none of it yet.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['torch', 'mmengine.runner', 'mmact', 'matplotlib.pyplot'])


def _run(function: Callable, arguments: tuple, environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*arguments)


class Started:
    """A process that runs a function.

    Args:
        log: Where what it prints goes.
        function: A function of a module that the tests can import.
        arguments: The function's arguments.
        environment: Variables that are set before.
    """

    def __init__(self, log: Path, function: Callable, *arguments: object, **environment: str):
        self.log = log
        given = (function, arguments, environment, str(log))
        self.process = CONTEXT.Process(target=_run, args=given)
        self.process.start()

    def wait(self) -> int:
        """Returns its exit status, a signal as a negative number."""
        self.process.join(120)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.log.read_text())
        return self.process.exitcode


def finish(*processes: Started) -> None:
    """Waits for processes, which must not fail."""
    statuses = [process.wait() for process in processes]
    for process, status in zip(processes, statuses, strict=True):
        assert status == 0, process.log.read_text()


def run_code(folder: Path, code: str) -> tuple[int, str]:
    """Runs code as ``python -c`` does where nothing depends on what is imported already.

    Returns:
        The exit status, and what it printed.
    """
    process = Started(folder / 'output', exec, code, {'__name__': '__main__'})
    return process.wait(), process.log.read_text()
