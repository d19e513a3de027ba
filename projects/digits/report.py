# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The tables and figures of the convergence experiment, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from .arelu_tables import FIXED, LEARNED, PAPER_COLUMNS, TABLE1, TABLE4, TABLE5, TABLE6
from .journal import format_mean, mean_and_std

PAPER_NAMES = {'LeakyReLU': 'LReLU'}


class Table:
    """Accuracies by activation, optimizer and learning rate.

    After the first epoch (the paper's Tables 1 and 4), or after the last (its Tables 6 and 5, which
    are of 20 epochs).

    Args:
        results: Runs, each with its key, result and ``name``.
        act_cfgs: Name to ``act_cfg``, in the order of the rows.
        settings: Of the experiment, for the text above the table.
        last: Whether it is of the last epoch.
    """

    def __init__(
        self,
        results: Sequence[dict],
        act_cfgs: dict[str, dict],
        settings: dict,
        last: bool = False,
    ) -> None:
        self.settings = settings
        self.last = last
        self.paper_mean, self.paper_best = (TABLE6, TABLE5) if last else (TABLE1, TABLE4)
        self.act_cfgs = act_cfgs
        self.columns = list(
            dict.fromkeys(
                (r['optimizer'], r['lr']) for r in sorted(results, key=lambda r: -r['lr'])
            )
        )
        self.cells: dict[tuple, list[float]] = {}
        self.parameters: dict[str, list[int]] = {}
        self.infinite: set[tuple] = set()
        for result in results:
            name = result['name']
            cell = (name, (result['optimizer'], result['lr']))
            value = result['curve'][-1][1] if last else result['accuracy']
            self.cells.setdefault(cell, []).append(value)
            self.parameters[name] = result['parameters']
            if not result['finite']:
                self.infinite.add(cell)

    def groups(self) -> list[tuple[str, list[str]]]:
        """Names by part of the table: fixed and learnable ones of the paper, and others."""
        return [
            ('fixed, of the paper', [n for n in self.act_cfgs if n in FIXED]),
            ('learnable, of the paper', [n for n in self.act_cfgs if n in LEARNED]),
            ('not in the paper', [n for n in self.act_cfgs if n not in TABLE1]),
        ]

    def improvements(self) -> list[tuple[str, list[float], list[float | None]]]:
        """AReLU minus the best other of each of the paper's parts.

        Returns:
            A (description, ours by column, the paper's by column) for each part that has another
            activation than AReLU; the paper's is None for columns that it lacks, and everywhere
            if the part is not complete, since it would be another comparison.
        """
        rows = []
        if 'AReLU' not in self.act_cfgs:
            return rows
        for (_, names), everyone, kind in zip(
            self.groups(), (FIXED, LEARNED), ('fixed', 'other learnable'), strict=False
        ):
            others = [name for name in names if name != 'AReLU']
            if not others:
                continue
            complete = set(names) == set(everyone)
            ours = [
                mean(self.cells['AReLU', c]) - max(mean(self.cells[name, c]) for name in others)
                for c in self.columns
            ]
            paper = [self._paper_improvement(others, c) if complete else None for c in self.columns]
            rows.append((f'AReLU minus best {kind}', ours, paper))
        return rows

    def _paper_improvement(self, others: Sequence[str], column: tuple[str, float]) -> float | None:
        arelu = paper_value(self.paper_mean, 'AReLU', column)
        if arelu is None:
            return None
        return arelu - max(self.paper_mean[name][PAPER_COLUMNS.index(column)] for name in others)

    def rank(self, column: tuple[str, float]) -> int:
        """Place of AReLU among all activations of this table, 1 for the best."""
        arelu = mean(self.cells['AReLU', column])
        return 1 + sum(mean(self.cells[name, column]) > arelu for name in self.act_cfgs)

    def to_dict(self) -> dict:
        """Everything in the table, for JSON."""
        rows = []
        for part, names in self.groups():
            for name in names:
                cells = []
                for column in self.columns:
                    values = self.cells[name, column]
                    center, spread = mean_and_std(values)
                    cells.append(
                        {
                            'optimizer': column[0],
                            'lr': column[1],
                            'accuracies': values,
                            'mean': center,
                            'std': spread,
                            'best': max(values),
                            'paper': paper_value(self.paper_mean, name, column),
                            'paper_best': paper_value(self.paper_best, name, column),
                            'loss_stayed_finite': (name, column) not in self.infinite,
                        }
                    )
                rows.append(
                    {
                        'activation': name,
                        'act_cfg': self.act_cfgs[name],
                        'part': part,
                        'parameters': self.parameters[name],
                        'cells': cells,
                    }
                )
        improvements = [
            {'name': name, 'ours': ours, 'paper': paper}
            for name, ours, paper in self.improvements()
        ]
        return {'settings': self.settings, 'rows': rows, 'improvements': improvements}

    def to_markdown(self) -> str:
        """The table as the paper prints it, with the paper's numbers in brackets."""
        s = self.settings
        what = 'mean' if s['runs'] == 1 else 'mean ± standard deviation, and best,'
        tables = ['6', '5'] if self.last else ['1', '4']
        source = f'Table {tables[0]}' if s['runs'] == 1 else f'Tables {" and ".join(tables)}'
        when = f'epoch {s["epochs"]}' if self.last else 'the first epoch'
        lines = [
            f'Accuracy (%) after {when}: {what} of {s["runs"]} run{"s" * (s["runs"] > 1)}; in '
            f'brackets that of five on MNIST from {source} of the AReLU paper'
            f'{", after 20 epochs" * self.last}.',
            f'Data: {s["data"]}. An epoch is {s["epoch_samples"]:,} images, {s["passes"]:g} passes '
            f'over the training set, {s["steps"]} steps of {s["batch_size"]}. Behind the name: '
            'learnable parameters of an activation. Bold: best of its part of the table.',
            '',
            '| Activation | ' + ' | '.join(f'{name} {lr:g}' for name, lr in self.columns) + ' |',
            '|---|' + '---:|' * len(self.columns),
        ]
        for _, names in self.groups():
            for name in names:
                cells = [self._cell(name, column, names) for column in self.columns]
                lines.append(f'| {self._label(name)} | ' + ' | '.join(cells) + ' |')
        for name, ours, paper in self.improvements():
            cells = [
                f'{a:+.2f}' + ('' if b is None else f' ({b:+.2f})')
                for a, b in zip(ours, paper, strict=True)
            ]
            lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
        if 'AReLU' in self.act_cfgs and len(self.act_cfgs) > 1:
            ranks = [f'{self.rank(column)} of {len(self.act_cfgs)}' for column in self.columns]
            lines.append('| Place of AReLU | ' + ' | '.join(ranks) + ' |')
        if self.infinite:
            lines += ['', '* The loss of at least one run became infinite or NaN; it ended there.']
        return '\n'.join(lines) + '\n'

    def _cell(self, name: str, column: tuple[str, float], part: Sequence[str]) -> str:
        values = self.cells[name, column]
        text = format_mean(values)
        if len(values) > 1:
            text += f', {max(values):.2f}'
        if len(part) > 1 and mean(values) == max(mean(self.cells[n, column]) for n in part):
            text = f'**{text}**'
        tables = [self.paper_mean, self.paper_best][: 1 + (len(values) > 1)]
        paper = [f'{v:.2f}' for t in tables if (v := paper_value(t, name, column)) is not None]
        star = r'\*' if (name, column) in self.infinite else ''
        return text + star + (f' ({", ".join(paper)})' if paper else '')

    def _label(self, name: str) -> str:
        counts = self.parameters[name]
        label = f'{name} [{PAPER_NAMES[name]}]' if name in PAPER_NAMES else name
        if not any(counts):
            return label
        return f'{label} ({"/".join(str(count) for count in dict.fromkeys(counts))})'


def paper_value(
    table: dict[str, Sequence[float]], name: str, column: tuple[str, float]
) -> float | None:
    """The accuracy in % that a table of the paper has, or None where it has none."""
    if name not in table or column not in PAPER_COLUMNS:
        return None
    return table[name][PAPER_COLUMNS.index(column)]


def draw_curves(results: Sequence[dict], lrs: Sequence[float], path: Path) -> None:
    """Draws accuracy over steps of SGD at the two smallest learning rates (the paper's Figure 3).

    The best ones of a panel, AReLU and ReLU are in colour, the others grey.

    Args:
        results: Runs, each with its key, result and ``name``; those with SGD have a curve.
        lrs: Learning rates of the table.
        path: The PNG to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    lrs = sorted(lrs, reverse=True)[-2:]
    panels = [_mean_curves(results, 'SGD', lr, 'curve') for lr in lrs]
    # The same activations in colour in both panels, and each in the same one.
    names = sorted(panels[0], key=lambda name: -sum(panel[name][1][-1] for panel in panels))
    coloured = list(dict.fromkeys([*(n for n in ('AReLU', 'ReLU') if n in names), *names]))[:9]
    palette = [c for i, c in enumerate(plt.get_cmap('tab10').colors) if i != 7]  # grey
    colours = dict(zip(coloured, palette, strict=False))
    figure, axes = plt.subplots(1, len(lrs), figsize=(7.6 * len(lrs), 4.8), squeeze=False)
    for axis, lr, panel in zip(axes[0], lrs, panels, strict=True):
        grey_label = 'others'
        for name in sorted(panel, key=lambda name: -panel[name][1][-1]):
            steps, values = panel[name]
            if name in colours:
                width = 2.8 if name == 'AReLU' else 1.5
                label = f'{name} {values[-1]:.1f}'
                axis.plot(steps, values, color=colours[name], lw=width, label=label)
            else:
                axis.plot(steps, values, color='0.75', lw=0.9, label=grey_label, zorder=1)
                grey_label = None
        axis.set(title=f'SGD, learning rate {lr:g}', xlabel='Step', ylabel='Test accuracy (%)')
        axis.grid(alpha=0.3)
        axis.legend(title='At the end (%)', fontsize=8, loc='upper left', bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_training(results: Sequence[dict], path: Path) -> None:
    """Draws training loss and accuracy over steps, a row for each learning rate (Figures 7, 8).

    Args:
        results: Runs, each with its key, result and ``name``; means over them are drawn. Those of
            older versions have no loss, and with Adam no accuracies.
        path: The PNG to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    names = [r['name'] for r in results]
    styles = line_styles(names, {'AReLU': dict(color='black', ls='-')})
    optimizers, lrs = ({r[key]: 0 for r in results} for key in ('optimizer', 'lr'))
    columns = [(name, key) for name in optimizers for key in ('losses', 'curve')]
    size = (4.6 * len(columns) + 2, 3.6 * len(lrs) + 0.5)
    shape = len(lrs), len(columns)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout='constrained')
    for line, lr in zip(axes, sorted(lrs, reverse=True), strict=True):
        for axis, (optimizer, key) in zip(line, columns, strict=True):
            for name, curve in _mean_curves(results, optimizer, lr, key).items():
                axis.plot(*curve, label=name, **styles[name])
            axis.set_title(f'{optimizer}, learning rate {lr:g}', fontsize=10)
            axis.set(xlabel='Step', ylabel='Training loss' if key == 'losses' else 'Accuracy (%)')
            axis.grid(alpha=0.3)
    handles = [plt.Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(handles=handles, loc='outside right upper', fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def line_styles(names: Sequence[str], special: dict[str, dict]) -> dict[str, dict]:
    """How matplotlib draws the line of each activation: all different, and some to stand out.

    Args:
        names: The activations; each may be there several times.
        special: Those that are drawn thick, and their colours and dashes.

    Returns:
        Name to arguments of ``plot``. Every second line is dashed, so that of two functions that
        are the same, such as ELU and CELU, both are seen.
    """
    from matplotlib import colormaps

    colours = colormaps['tab20'].colors
    styles = {}
    for i, name in enumerate(dict.fromkeys(names)):
        styles[name] = dict(color=colours[i % 20], ls=('-', '--')[i % 2], lw=1.3)
        if name in special:
            styles[name].update(special[name], lw=2.5, zorder=3)
    return styles


def _mean_curves(
    results: Sequence[dict], optimizer: str, lr: float, key: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Name to (steps, mean of the runs after as many steps), of accuracy or loss.

    Runs without such a curve are left out: those of older versions, and losses of runs that did not
    stay finite.
    """
    runs: dict[str, list[list]] = {}
    for result in results:
        whole = result.get(key) and (key == 'curve' or result['finite'])
        if whole and (result['optimizer'], result['lr']) == (optimizer, lr):
            runs.setdefault(result['name'], []).append(result[key])
    curves = {}
    for name, several in runs.items():
        steps = [step for step, _ in several[0]]
        values = ([value for _, value in curve] for curve in several)
        curves[name] = steps, [mean(row) for row in zip(*values, strict=True)]
    return curves
