# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report of a conversion: the sites that were replaced, and those that were kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Replaced:
    """A call site with a new activation.

    Args:
        path: Path of the new activation in the model.
        was: The original's kind.
        now: Class of the new activation.
        channels: Number of channels; of each of several widths, a tuple; None if the activation
            does not need to know it.
        error: Largest absolute difference of the new function from the old one at the start, on
            ``low`` to ``high``; None if it was not measured (not a function of one number).
        low: Smallest input of the site in the dry run; None without one.
        high: Largest input.
        parameters: Number of parameters added.
        place: File and line of a call that was rewritten; empty where a module was replaced.
        function: Whether a function was called there, not a module.
    """

    path: str
    was: str
    now: str
    channels: int | tuple[int, ...] | None
    error: float | None
    low: float | None
    high: float | None
    parameters: int
    place: str = ''
    function: bool = False


@dataclass(frozen=True)
class Kept:
    """A call site that stayed as it was.

    Args:
        path: Path of the module, or of the module that calls a function.
        was: Kind of the activation there.
        reason: Why it stayed.
        place: File and line of a function's call.
        function: Whether a function is called there, not a module.
    """

    path: str
    was: str
    reason: str
    place: str = ''
    function: bool = False


@dataclass
class Report:
    """The result of :func:`mmact.convert`; ``print`` shows it as tables.

    Args:
        replaced: The sites with new activations, in the order of the model's modules.
        kept: The sites that stayed.
        notes: Observations on the way, such as a dry run that failed.
        difference: Largest absolute difference of the model's outputs on the example before and
            after, divided by the largest output; None without an example.
    """

    replaced: list[Replaced] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    difference: float | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters added."""
        return sum(site.parameters for site in self.replaced)

    def to_json(self, **kwargs) -> str:
        """The report as JSON.

        Args:
            **kwargs: As those of ``json.dumps``.
        """
        return json.dumps({**asdict(self), 'parameters': self.parameters}, **kwargs)

    def __str__(self) -> str:
        parts = [
            f'{len(self.replaced)} call sites replaced, {len(self.kept)} kept, {self.parameters:,} '
            f'parameters added'
        ]
        if self.difference is not None:
            parts[0] += f'; outputs differ by {self.difference:.2g} of the largest'
        if self.replaced:
            replaced = [
                (
                    r.path,
                    r.was,
                    r.now,
                    _channels(r.channels),
                    '' if r.error is None else f'{r.error:.2g}',
                    '' if r.low is None else f'[{r.low:.3g}, {r.high:.3g}]',
                    f'{r.parameters:,}',
                    r.place,
                )
                for r in self.replaced
            ]
            header = ('path', 'was', 'is', 'channels', 'error', 'on', 'parameters', 'in place of')
            parts.append(_table(header, replaced))
        if self.kept:
            rows = [(k.path, k.was, k.reason, k.place) for k in self.kept]
            parts.append(_table(('path', 'kept', 'because', 'in'), rows))
        return '\n\n'.join([*parts, *self.notes])


def _channels(value: int | Iterable[int] | None) -> str:
    if value is None:
        return ''
    return str(value) if isinstance(value, int) else ', '.join(map(str, value))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[row[i] for i in used] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
