#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/activations.md, the table of all activations, from mmact.list_activations()."""

from pathlib import Path

from _page import write_page

from mmact import list_activations
from mmact.activations import Activation, ActivationRecord

PAGE = Path(__file__).resolve().parents[2] / 'docs/activations.md'

HEAD = """\
# Activations

<!-- Written by tools/misc/print_activations.py; change the docstrings, not this file. -->

`act_cfg=dict(type=NAME)` builds any of these in every codebase of OpenMMLab, once mmact is
imported. `mmact.list_activations()` gives the same list in Python. Parameters are counted with
the default arguments; "per channel" means that many for each channel of the layer.
"""

OWN = """
## mmact's

From `mmact.activations`. Where a paper leaves something open, the docstring says what was chosen.
"""

STANDARD = """
## PyTorch's

Under their names in configs. mmcv has most of them; mmact registers those that it leaves out.
"""


def table(records: list[ActivationRecord]) -> str:
    """The records as a Markdown table."""
    rows = [('type', 'what it computes', 'parameters', 'source'), ('---',) * 4]
    for record in records:
        count = f'{record.num_parameters} per {record.per}' if record.num_parameters else 'none'
        rows.append((f'`{record.name}`', record.description, count, record.paper))
    return ''.join(
        '| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |\n' for row in rows
    )


def page() -> str:
    """The text of docs/activations.md."""
    records = list_activations()
    own = [record for record in records if issubclass(record.cls, Activation)]
    standard = [record for record in records if record not in own]
    return f'{HEAD}{OWN}\n{table(own)}{STANDARD}\n{table(standard)}'


def main() -> None:
    """Writes or checks the page."""
    write_page(
        PAGE,
        'Write the table of activations to docs/activations.md.',
        page,
        'print_activations.py',
    )


if __name__ == '__main__':
    main()
