#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/conversion_sweep.md, the results of tools/misc/conversion_sweep.py."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from _page import write_page

PAGE = Path(__file__).resolve().parents[2] / 'docs/conversion_sweep.md'
RESULTS = Path(__file__).with_name('conversion_sweep.json')

HEAD = """\
# Conversion of many models

<!-- Written by tools/misc/print_conversion.py from conversion_sweep.json; change these. -->

`python tools/misc/conversion_sweep.py` builds a model of every folder of the codebases' configs
and of many families of torchvision and timm with random weights, converts it to PWLU, and trains
it for one step; what is in its results already it does not do again, so that it can be stopped and
goes on. Columns:

- sites: call sites of modules / of functions that were replaced;
- left: those that were not, and should have been; each is named below;
- other: code of a module that this configuration does not run, and that keeps the original
  function for it;
- rule: what stays by the rules (gates, maps of one element, modules that nothing calls);
- PWLU, PAU, DY-ReLU-B, DiTAC: largest difference of the outputs (of detectors: of backbone and
  neck) as a share of the largest, after conversion of all sites to PWLU, of ReLU to PAU or DY-
  ReLU-B, of GELU to DiTAC; "-" is not done or not applicable. PWLU is a table of smooth functions,
  and PAU a fit of ReLU: their errors add up over the layers (`max_error` refuses them), the others
  are exact but for rounding. Most figures of PAU and some of PWLU for smooth functions are from
  before the starts were changed (see the changelog);
- step: "yes" if after one training step everything is finite, and every parameter of a new
  activation, and every one that had a gradient before the conversion, got a gradient.
"""


def table(rows: list[tuple]) -> str:
    """Rows, the first of which is the head, as a Markdown table."""
    lines = [rows[0], ('---',) + ('---:',) * (len(rows[0]) - 1), *rows[1:]]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n' for line in lines)


def converted(result: dict[str, Any]) -> bool:
    """Whether a model was built and converted."""
    return 'modules' in result


def trained(result: dict[str, Any]) -> str:
    """Text of the column "step"."""
    step = result['step']
    if 'way' not in step:
        return 'does not run here'
    if not step['finite']:
        return 'not finite'
    missing = len(step['without']) + len(step['lost'])
    return f'{missing} without' if missing else 'yes'


def row(name: str, result: dict[str, Any]) -> tuple:
    """A model's row."""
    kinds = result['modules'], result['functions']
    changes = (result['difference'].get(act) for act in ('PWLU', 'PAU', 'DyReLUB', 'DiTAC'))
    return (
        name,
        ' / '.join(str(k['replaced']) for k in kinds),
        ' / '.join(str(k['left']) for k in kinds),
        sum(k['unreached'] for k in kinds),
        sum(k['stay'] for k in kinds),
        *('-' if change is None else f'{change:.1g}' for change in changes),
        trained(result),
    )


def summary(results: dict[str, dict]) -> str:
    """A row for each library, and one for all."""
    libraries = Counter(name.partition('/')[0] for name in results)
    sites = ('module sites', 'replaced', 'function sites', 'replaced')
    rows: list[tuple] = [('', 'tried', 'converted', *sites, 'steps')]
    for library in (*libraries, ''):
        chosen = [r for n, r in results.items() if n.startswith(library)]
        done = [r for r in chosen if converted(r)]
        counts: list[Any] = []
        for kind in ('modules', 'functions'):
            replaced = sum(r[kind]['replaced'] for r in done)
            total = replaced + sum(r[kind]['left'] for r in done)
            counts += [total, f'{100 * replaced / total:.2f} %' if total else '-']
        steps = sum(trained(r) == 'yes' for r in done)
        rows.append((library or 'all', len(chosen), len(done), *counts, steps))
    return table(rows)


def page() -> str:
    """The text of docs/conversion_sweep.md."""
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    done = {name: result for name, result in results.items() if converted(result)}
    head = ('', 'sites', 'left', 'other', 'rule', 'PWLU', 'PAU', 'DY-ReLU-B', 'DiTAC', 'step')
    parts = [HEAD, '\n## By library\n\n', summary(results)]
    parts += ['\n## Left\n\n', *sorted(_left(done))]
    parts += ['\n## Not converted\n\n', *_failures(results, done)]
    parts += ['\n## Models\n\n', table([head, *(row(n, r) for n, r in done.items())])]
    return ''.join(parts)


def _left(done: dict[str, dict]) -> list[str]:
    """A line for each place and reason, with the models that have it."""
    found: dict[tuple, list[str]] = {}
    for name, result in done.items():
        for path, was, reason, place in result['left']:
            if not reason.startswith('stays for calls'):
                where = place or f'`{path.rpartition(".")[2]}`'
                found.setdefault((where, was, reason), []).append(f'{name} ({path})')
    lines = []
    for (where, was, reason), names in found.items():
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        lines.append(f'- {was} at {where}: {reason}. {", ".join(names[:3])}{more}\n')
    return lines


def _failures(results: dict[str, dict], done: dict[str, dict]) -> list[str]:
    """A line for each reason why models were not converted."""
    found: dict[str, list[str]] = {}
    for name, result in results.items():
        if name not in done:
            why = result.get('why') or result['crashed']
            found.setdefault(' '.join(why.split())[:160], []).append(name)
    return [f'- {why}: {", ".join(names)}\n' for why, names in found.items()]


def main() -> None:
    """Writes or checks the page."""
    write_page(
        PAGE,
        'Write the results of the conversion sweep to docs/conversion_sweep.md.',
        page,
        'print_conversion.py',
    )


if __name__ == '__main__':
    main()
