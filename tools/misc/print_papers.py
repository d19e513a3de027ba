#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/papers.md, what there is of every table and figure, from docs/papers.json."""

import json
from pathlib import Path
from typing import Any

from _page import write_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/papers.md'
SOURCE = ROOT / 'docs/papers.json'

HEAD = """\
# Every table and figure of the five papers

<!-- Written by tools/misc/print_papers.py from papers.json; change that. -->

What repeats each of them here, and whether it was run. A config is started with
`python tools/train.py CONFIG`, on several GPUs with `tools/dist_train.sh CONFIG 8`; what stands
behind a config goes with it. All configs and commands are tried in the tests, and every result
stands in the file that it links to.
"""

STATES = {
    'run': 'run here',
    'checked': 'checked by tests',
    'data': 'not run: needs',
    'partly': 'in part',
    'missing': 'not here',
}


def command(text: str) -> str:
    """A line of the column of configs and commands."""
    path, _, options = text.partition(' ')
    if not path.startswith('configs/'):
        return f'`{text}`'
    name = path.rpartition('/')[2].removesuffix('.py')
    return f'[{name}](../{path})' + (f' `{options}`' if options else '')


def state(entry: dict[str, Any]) -> str:
    """Whether it was run, and what came out."""
    text = STATES[entry['state']]
    if entry['note']:
        text += f'{" " if entry["state"] == "data" else ": "}{entry["note"]}'
    if entry['result']:
        text += f'. [{entry["result"]}](../{entry["source"]})'
    return text


def page() -> str:
    """The text of docs/papers.md."""
    papers = json.loads(SOURCE.read_text(encoding='utf-8'))
    entries = [entry for paper in papers for entry in paper['entries']]
    counts = {name: sum(e['state'] == name for e in entries) for name in STATES}
    text = (
        f'{HEAD}\nOf {len(entries)} rows {counts["run"]} were run here and {counts["checked"]} are '
        f'checked by tests; {counts["data"]} have configs and need data and GPUs; '
        f'{counts["partly"]} are there in part, and {counts["missing"]} not yet.\n'
    )
    for paper in papers:
        folder = paper['folder']
        text += f'\n## {paper["name"]}\n\n{paper["paper"]}; [{folder}](../{folder})\n\n'
        text += '| | of | config or command | state |\n| --- | --- | --- | --- |\n'
        for entry in paper['entries']:
            runs = '<br>'.join(command(run) for run in entry['run'])
            text += f'| {entry["item"]} | {entry["about"]} | {runs} | {state(entry)} |\n'
    return text


def main() -> None:
    """Writes or checks the page."""
    write_page(
        PAGE,
        'Writes docs/papers.md: configs, commands and state of every table and figure.',
        page,
        Path(__file__).name,
    )


if __name__ == '__main__':
    main()
