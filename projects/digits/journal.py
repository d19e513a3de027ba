# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The base of tables of many trainings: results that survive the process, progress, and means."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

from .data import PACKAGED


class Journal:
    """Results of single runs in a file of JSON lines, to which each run is added as it ends.

    A result is found by its key: all that it depends on. So a command that was killed continues
    where it was, and one with more runs, activations or settings computes only what is new.

    Args:
        path: The file; created with its folder when the first result is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, dict] = {}
        self._cut_off = False
        if path.exists():
            text = path.read_text()
            self._cut_off = bool(text) and not text.endswith('\n')
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    self._results[_canonical(entry['key'])] = entry['result']
                except (json.JSONDecodeError, KeyError, TypeError):
                    # The rest of a line, from a process that was killed while it wrote.
                    print(f'{path}: a line that is not a whole result is ignored', file=sys.stderr)

    def get(self, key: dict) -> dict | None:
        """The result of a run, or None if it was not run yet."""
        return self._results.get(_canonical(key))

    def add(self, key: dict, result: dict) -> None:
        """Adds a result; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open('a') as file:
            if self._cut_off:
                file.write('\n')
                self._cut_off = False
            file.write(json.dumps({'key': key, 'result': result}) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self._results[_canonical(key)] = result


def _canonical(key: dict) -> str:
    return json.dumps(key, sort_keys=True)


class Progress:
    """Prints a line a run: how many of how many are done, and the time left.

    Args:
        total: Runs of the whole table.
        done: Runs whose results are there already.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.already = total, done, done
        self.start = time.monotonic()
        if done:
            print(f'{done} of {total} runs are there already', flush=True)

    def step(self, text: str) -> None:
        """Says that one more run is done.

        Args:
            text: What was run, and its result.
        """
        self.done += 1
        per_run = (time.monotonic() - self.start) / (self.done - self.already)
        left = round(per_run * (self.total - self.done))
        width = len(str(self.total))
        print(
            f'[{self.done:{width}}/{self.total}] {text}; {left // 60} min {left % 60:02d} s left',
            flush=True,
        )


def complete(
    keys: Sequence[dict],
    journal: Journal,
    run: Callable[[dict], dict],
    describe: Callable[[dict, dict], str],
) -> list[dict]:
    """Runs what was not run yet, and says how far it is.

    Args:
        keys: Of all runs.
        journal: Where results are, and where they are added.
        run: Makes the result of a key.
        describe: Makes a line of a key and its result.

    Returns:
        Each key with its result, in one dict.
    """
    progress = Progress(len(keys), sum(journal.get(key) is not None for key in keys))
    results = []
    try:
        for key in keys:
            result = journal.get(key)
            if result is None:
                result = run(key)
                journal.add(key, result)
                progress.step(describe(key, result))
            results.append({**key, **result})
    except KeyboardInterrupt:
        print(f'\ninterrupted; the same command continues from {journal.path}', file=sys.stderr)
        sys.exit(130)
    return results


def data_parser(doc: str | None) -> ArgumentParser:
    """A parser of the option that every program has: the data.

    Args:
        doc: The program's docstring.
    """
    parser = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data',
        metavar='DIR',
        help=f"folder with MNIST's idx files, or {' or '.join(PACKAGED)} (default: the first of "
        'these two that is installed)',
    )
    return parser


def study_parser(doc: str | None, results: Path, activations: Sequence[str] = ()) -> ArgumentParser:
    """A parser of what every study takes: data, runs, the results' file, perhaps activations.

    Args:
        doc: The program's docstring.
        results: File of the results by default.
        activations: Their types by default; none where there is no choice.
    """
    parser = data_parser(doc)
    if activations:
        parser.add_argument(
            '--activations',
            nargs='+',
            default=list(activations),
            metavar='TYPE',
            help=f'as in act_cfg=dict(type=...) (default: {" ".join(activations)})',
        )
    parser.add_argument(
        '--runs', type=positive(int), default=5, help='seeds 0, 1, ... (default: 5)'
    )
    parser.add_argument(
        '--results', type=Path, default=results, help=f'file of the results (default: {results})'
    )
    return parser


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None instead of the latter for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


def format_mean(values: Sequence[float]) -> str:
    """'97.05 ± 0.12', or the value alone if there is one."""
    center, spread = mean_and_std(values)
    return f'{center:.2f}' + ('' if spread is None else f' ± {spread:.2f}')


def positive(kind: type) -> Callable[[str], float]:
    """An argparse type: a finite number above 0 of the given kind."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float('inf'):
            raise argparse.ArgumentTypeError(f'{text!r} is not a positive {kind.__name__}')
        return value

    return convert
