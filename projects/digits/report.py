# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the figure of the convergence experiment, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from .journal import format_mean, mean_and_std

PAPER_COLUMNS = [(name, lr) for lr in (1e-2, 1e-3, 1e-4, 1e-5) for name in ('Adam', 'SGD')]
# Table 1 of the AReLU paper: mean accuracy in % on MNIST of five runs after the first epoch.
FIXED = {
    'CELU': (97.76, 96.12, 96.21, 62.81, 84.01, 13.07, 24.84, 9.60),
    'ELU': (97.82, 96.17, 96.22, 58.10, 85.67, 14.07, 19.77, 10.13),
    'GELU': (98.49, 94.90, 95.79, 12.55, 83.72, 11.49, 15.20, 10.92),
    'LeakyReLU': (97.80, 95.59, 95.86, 35.90, 84.08, 10.28, 15.41, 10.73),
    'Maxout': (97.04, 95.81, 96.14, 71.75, 84.81, 10.79, 18.83, 9.06),
    'ReLU': (97.75, 95.02, 95.40, 36.01, 84.02, 10.68, 15.25, 8.73),
    'ReLU6': (97.77, 95.32, 96.09, 43.42, 81.39, 10.23, 14.33, 9.56),
    'RReLU': (98.09, 95.88, 95.65, 53.33, 84.51, 9.57, 16.53, 10.28),
    'SELU': (97.25, 96.52, 96.61, 82.36, 85.36, 16.49, 30.04, 9.59),
    'Sigmoid': (47.16, 11.04, 83.59, 11.35, 11.37, 9.92, 10.52, 10.10),
    'Softplus': (96.38, 90.90, 93.83, 11.14, 51.83, 9.19, 10.21, 9.89),
    'Swish': (98.10, 94.02, 95.91, 11.44, 83.91, 10.69, 11.39, 9.47),
    'Tanh': (96.93, 94.22, 96.45, 57.70, 79.25, 11.73, 27.05, 10.31),
}
LEARNED = {
    'APL': (97.00, 95.71, 94.67, 17.81, 76.73, 9.39, 13.28, 11.83),
    'Comb': (98.28, 95.97, 95.79, 35.95, 83.91, 10.59, 20.22, 10.18),
    'PAU': (98.17, 97.67, 96.73, 40.11, 87.08, 10.54, 14.49, 11.11),
    'PReLU': (98.22, 95.72, 95.87, 45.73, 85.81, 12.08, 14.51, 9.88),
    'SLAF': (96.30, 97.07, 95.32, 83.35, 72.67, 14.12, 10.04, 11.32),
    'AReLU': (98.00, 97.30, 97.13, 93.13, 90.44, 47.78, 38.39, 14.25),
}
TABLE1 = {**FIXED, **LEARNED}
PAPER_NAMES = {'LeakyReLU': 'LReLU'}


class Table:
    """Accuracies after the first epoch, by activation, optimizer and learning rate.

    Args:
        results: Runs, each with its key and result.
        act_cfgs: Name to ``act_cfg``, in the order of the rows.
        settings: Of the experiment, for the text above the table.
    """

    def __init__(self, results: Sequence[dict], act_cfgs: dict[str, dict], settings: dict) -> None:
        self.settings = settings
        self.act_cfgs = act_cfgs
        self.columns = list(
            dict.fromkeys(
                (r['optimizer'], r['lr']) for r in sorted(results, key=lambda r: -r['lr'])
            )
        )
        names = {repr(act_cfg): name for name, act_cfg in act_cfgs.items()}
        self.cells: dict[tuple, list[float]] = {}
        self.parameters: dict[str, list[int]] = {}
        self.infinite: set[tuple] = set()
        for result in results:
            name = names[repr(result['act_cfg'])]
            cell = (name, (result['optimizer'], result['lr']))
            self.cells.setdefault(cell, []).append(result['accuracy'])
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
            paper = [paper_improvement(others, c) if complete else None for c in self.columns]
            rows.append((f'AReLU minus best {kind}', ours, paper))
        return rows

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
                            'paper': paper_value(name, column),
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
        """The table as the paper prints it, with the paper's means in brackets."""
        s = self.settings
        lines = [
            f'Accuracy (%) after the first epoch: mean{" ± standard deviation" * (s["runs"] > 1)} '
            f'of {s["runs"]} run{"s" * (s["runs"] > 1)}; in brackets the mean of five on MNIST '
            "from the AReLU paper's Table 1.",
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
        if len(part) > 1 and mean(values) == max(mean(self.cells[n, column]) for n in part):
            text = f'**{text}**'
        paper = paper_value(name, column)
        star = r'\*' if (name, column) in self.infinite else ''
        return text + star + ('' if paper is None else f' ({paper:.2f})')

    def _label(self, name: str) -> str:
        counts = self.parameters[name]
        label = f'{name} [{PAPER_NAMES[name]}]' if name in PAPER_NAMES else name
        if not any(counts):
            return label
        return f'{label} ({"/".join(str(count) for count in dict.fromkeys(counts))})'


def paper_value(name: str, column: tuple[str, float]) -> float | None:
    """The paper's mean accuracy in %, or None where its Table 1 has none."""
    if name not in TABLE1 or column not in PAPER_COLUMNS:
        return None
    return TABLE1[name][PAPER_COLUMNS.index(column)]


def paper_improvement(others: Sequence[str], column: tuple[str, float]) -> float | None:
    """AReLU minus the best of the others in the paper's table, in points of a percent."""
    arelu = paper_value('AReLU', column)
    return None if arelu is None else arelu - max(paper_value(name, column) for name in others)


def draw_curves(results: Sequence[dict], lrs: Sequence[float], path: Path) -> None:
    """Draws accuracy over steps of SGD at the two smallest learning rates (the paper's Figure 3).

    The best ones of a panel, AReLU and ReLU are in colour, the others grey.

    Args:
        results: Runs, each with its key and result; those with SGD have a curve.
        lrs: Learning rates of the table.
        path: The PNG to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    lrs = sorted(lrs, reverse=True)[-2:]
    panels = [_mean_curves(results, lr) for lr in lrs]
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


def _mean_curves(results: Sequence[dict], lr: float) -> dict[str, tuple[list[int], list[float]]]:
    """Name to (steps, mean accuracy of the runs after as many steps), with SGD at ``lr``."""
    runs: dict[str, list[list]] = {}
    for result in results:
        if result['optimizer'] == 'SGD' and result['lr'] == lr:
            runs.setdefault(result['act_cfg']['type'], []).append(result['curve'])
    curves = {}
    for name, several in runs.items():
        steps = [step for step, _ in several[0]]
        accuracies = ([value for _, value in curve] for curve in several)
        curves[name] = steps, [mean(values) for values in zip(*accuracies, strict=True)]
    return curves
