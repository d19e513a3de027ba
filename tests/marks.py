# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What `make test` leaves to `make test-all`.

Slow are cases that show again, of another config or size or through another door, what a case of
`make test` shows, where together they take seconds.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

slow = pytest.mark.slow


def every_second(values: Iterable) -> list:
    """Returns values for parametrize, the second, fourth and so on marked slow."""
    values = list(values)
    return slow_unless(values[::2].__contains__, values)


def slow_unless(quick: Callable[[Any], bool], values: Iterable) -> list:
    """Returns values for parametrize, of which those that are not quick are marked slow.

    Args:
        quick: Says of a value whether it is; of several arguments the tuple of their values.
        values: What parametrize takes.
    """

    def marked(value: Any) -> Any:
        arguments = value if isinstance(value, tuple) else (value,)
        return pytest.param(*arguments, marks=slow)

    return [value if quick(value) else marked(value) for value in values]
