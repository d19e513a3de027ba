#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/choosing.md: costs, starts, and where papers found gains.

Parameters and starts come from the layers themselves, times from docs/benchmarks.md, gains from
docs/gains.json, which has the results of ReLU and of the activation as the papers print them.
"""

import inspect
import json
import re
from pathlib import Path

import torch
from _page import write_page
from torch import nn

from mmact import list_activations
from mmact.activations import Activation, ActivationRecord

DOCS = Path(__file__).resolve().parents[2] / 'docs'
TABLE = '(8, 128, 64, 64), float32, contiguous'

STARTS = {
    'the identity': lambda x: x,
    'ReLU': torch.relu,
    'a third of ReLU': lambda x: torch.relu(x) / 3,
    'GELU': nn.functional.gelu,
    'SiLU': nn.functional.silu,
}


def measured() -> dict[str, tuple[str, ...]]:
    """Forward, forward+backward and memory of each row of the table in benchmarks.md."""
    text = (DOCS / 'benchmarks.md').read_text(encoding='utf-8')
    rows = text.partition(f'{TABLE}\n\n')[2].partition('\n\n')[0].splitlines()[2:]
    found = {}
    for name, _, forward, _, both, kept, _ in (row.split('|')[1:-1] for row in rows):
        found[name.strip()] = tuple(cell.split()[0] for cell in (forward, both, kept))
    return found


def functions(record: ActivationRecord) -> str:
    """What has a function of its own."""
    arguments = inspect.signature(record.cls).parameters
    if record.name.startswith('DyReLU'):
        return {'A': 'sample', 'B': 'sample and channel', 'C': 'sample, channel and pixel'}[
            record.name[-1]
        ]
    if record.name == 'MetaAconC':
        return 'sample and channel'
    if 'num_groups' not in arguments:
        return 'channel' if record.per == 'channel' else 'layer'
    own = record.cls().num_groups
    return {None: 'channel, group, layer', 1: 'layer, group, channel'}.get(own, 'group')


def start(cls: type[Activation]) -> str:
    """The function that a layer of 64 channels is before training."""
    if cls.__name__ in ('FReLU', 'Maxout'):
        return 'no function of x alone'
    x = torch.linspace(-3, 3, 601).unsqueeze(1).expand(-1, 64).contiguous()
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layer = cls(64) if 'num_channels' in inspect.signature(cls).parameters else cls()
        with torch.no_grad():
            outputs.append(layer.eval()(x))
    y, other = outputs
    if not torch.equal(y, other):
        return 'drawn at random'
    errors = {name: float((function(x) - y).abs().max()) for name, function in STARTS.items()}
    name = min(errors, key=errors.get)
    if errors[name] > 0.1:
        slopes = [float((y[k + 1] - y[k])[0] / (x[k + 1] - x[k])[0]) for k in (0, -2)]
        return f'slopes {slopes[0]:.2g} and {slopes[1]:.3g} at the ends'
    return name if errors[name] < 1e-5 else f'{name} ({errors[name]:.2g})'


def costs() -> str:
    """A row for each of mmact's activations."""
    times = measured()
    text = '| type | parameters | functions | time, with backward | kept | start |\n'
    text += '| --- ' * 6 + '|\n'
    for record in list_activations():
        if not issubclass(record.cls, Activation) or record.name != record.cls.__name__:
            continue
        count = f'{record.num_parameters} per {record.per}' if record.num_parameters else 'none'
        forward, both, kept = times.get(record.name, ('', '', ''))
        time = f'{forward}, {both}' if forward else ''
        text += (
            f'| `{record.name}` | {count} | {functions(record)} | {time} | {kept} '
            f'| {start(record.cls)} |\n'
        )
    return text


def gains() -> str:
    """A row for each experiment of gains.json."""
    text = '| type | what | difference to ReLU | source |\n' + '| --- ' * 4 + '|\n'
    for name, experiments in json.loads((DOCS / 'gains.json').read_text()).items():
        for k, experiment in enumerate(experiments):
            ends = sorted((with_it - relu, on) for on, relu, with_it in experiment['rows'])
            shown = [f'{gain:+.2f} ({on})' for gain, on in (ends[0], ends[-1])[: len(ends)]]
            text += (
                f'| {f"`{name}`" if k == 0 else ""} | {experiment["what"]} '
                f'| {" to ".join(shown)} | {experiment["source"]} |\n'
            )
    return text


def page() -> str:
    """The text of docs/choosing.md, with the tables as they are now."""
    text = (DOCS / 'choosing.md').read_text(encoding='utf-8')
    for name, table in (('costs', costs()), ('gains', gains())):
        place = re.compile(f'(<!-- {name}: [^>]*-->\n\n)(?:[|].*\n)*')
        text = place.sub(lambda match, table=table: match[1] + table, text)
    return text


def main() -> None:
    """Writes or checks the page."""
    write_page(
        DOCS / 'choosing.md', 'Write the tables of docs/choosing.md.', page, 'print_choosing.py'
    )


if __name__ == '__main__':
    main()
