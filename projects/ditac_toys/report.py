# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of the toy experiments of DiTAC, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from statistics import mean

import torch

from projects.digits.journal import mean_and_std

from .tasks import FUNCTIONS, Task

#: (MSE, R2 in %) of Tables 7, 8 and 9 of the supplement, and what its text says about Table 2 of
#: the paper; None where neither has a number, nan for the training that the paper calls unstable.
PAPER: dict[str, dict[str, tuple[float | None, float | None]]] = {
    'sin_exp': {'LeakyReLU': (None, 89.78), 'DiTAC': (None, 96.26)},
    'sines': {
        'ReLU': (0.010, 93.3),
        'LeakyReLU': (0.008, 94.7),
        'GELU': (0.111, 9.7),
        'ELU': (0.116, 3.6),
        'Softplus': (0.114, 5.2),
        'Mish': (0.113, 5.5),
        'Swish': (0.004, 97.5),
        'PReLU': (0.010, 93.1),
        'DiTAC': (0.001, 99.3),
    },
    'function_2d': {
        'PReLU': (None, 96.09),
        'DiTAC': (0.004, 98.37),
        'GE-DiTAC': (0.001, 99.4),
        'L-DiTAC': (0.006, 98.7),
        'inf-DiTAC': (0.004, 97.6),
    },
    'auto_mpg': {
        'ReLU': (409.0, 71.8),
        'LeakyReLU': (404.3, 72.2),
        'GELU': (412.2, 71.6),
        'ELU': (404.3, 72.2),
        'Softplus': (410.0, 71.8),
        'Mish': (410.9, 71.7),
        'Swish': (405.8, 72.1),
        'PReLU': (406.3, 72.0),
        'PDELU': (nan, nan),
        'DiTAC': (389.6, 73.2),
    },
    'gmm': {},
    'mnist': {},
}
#: Learnable numbers of a network in Table 8.
PAPER_PARAMETERS = {'Swish': 194, 'PReLU': 194, 'DiTAC': 202}


def score(result: dict) -> float | None:
    """Mean R2 or accuracy over the seeds, in %; None if a network diverged."""
    values = result.get('accuracy') or result['r2']
    return None if None in values else mean(values)


def describe(result: dict) -> str:
    """The score of a training, in words."""
    value = score(result)
    name = 'accuracy' if 'accuracy' in result else 'R2'
    return 'diverged' if value is None else f'{name} {value:.2f} %'


def best(results: Sequence[dict]) -> dict[str, dict]:
    """The training with the best score of each activation; any of them if all diverged."""
    chosen: dict[str, dict] = {}
    for result in results:
        name, value = result['activation'], score(result)
        before = score(chosen[name]) if name in chosen else None
        if name not in chosen or (value is not None and (before is None or value > before)):
            chosen[name] = result
    return chosen


def _ours(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation; '--' if a network diverged."""
    if None in values:
        return f'-- ({sum(v is None for v in values)} of {len(values)} diverged)'
    center, spread = mean_and_std(values)
    return f'{center:.{digits}f}' + ('' if spread is None else f' ± {spread:.{digits}f}')


def _paper(value: float | None, digits: int) -> str:
    if value is None:
        return ''
    return ' [--]' if value != value else f' [{value:.{digits}f}]'


def _peak(result: dict) -> str:
    """Mean over the seeds of the best accuracy, or of the smallest MSE as R2, in the curve."""
    by_seed = zip(*(v for _, v in result['curve']), strict=True)
    values = [[v for v in seed if v is not None] for seed in by_seed]
    if not all(values):
        return '--'
    if 'accuracy' in result:
        return f'{mean(max(v) for v in values):.2f}'
    if None in result['mse']:
        return '--'
    scale = [(100 - r2) / mse for r2, mse in zip(result['r2'], result['mse'], strict=True)]
    return f'{mean(100 - s * min(v) for s, v in zip(scale, values, strict=True)):.2f}'


def to_markdown(name: str, task: Task, results: Sequence[dict]) -> str:
    """A task's table.

    Args:
        name: Of the task.
        task: The task.
        results: Trainings, each with its key and result.

    Returns:
        Heading, a line on the training, and the table: a row for each activation, at its best
        learning rate, with the paper's number in brackets; best in bold.
    """
    chosen, first = best(results), results[0]
    lrs = sorted({r['lr'] for r in results}, reverse=True)
    layers = '-'.join(map(str, task.widths))
    metric = 'Accuracy (%)' if task.classes else 'R2 (%)'
    brackets = "; in brackets the paper's" if PAPER[name] else ''
    head = ['Activation', 'Param.', 'lr', *([] if task.classes else ['MSE']), metric]
    head += ['Best moment', *(f'lr {lr:g}' for lr in lrs)]
    lines = [
        f'### {name}: {task.title}',
        '',
        f'{layers}, {first["iterations"]:,} iterations, {first["seeds"]} seeds; paper lr '
        f'{task.lr:g}. {metric} at the end of training, mean ± standard deviation over the seeds, '
        f"at each activation's best learning rate{brackets}. Best moment: by the "
        f'best of {len(first["curve"])} measurements. Last columns: {metric} by learning rate.',
        '',
        '| ' + ' | '.join(head) + ' |',
        '|---|' + '---:|' * (len(head) - 1),
    ]
    top = max((score(r) for r in chosen.values() if score(r) is not None), default=None)
    for activation, result in chosen.items():
        paper_mse, paper_r2 = PAPER[name].get(activation, (None, None))
        digits = 1 if name == 'auto_mpg' else 4
        parameters = str(result['parameters'])
        if name == 'sines' and activation in PAPER[name]:
            parameters += f' [{PAPER_PARAMETERS.get(activation, 193)}]'
        cell = _ours(result.get('accuracy') or result['r2'], 2)
        if score(result) is not None and score(result) == top:
            cell = f'**{cell}**'
        row = [activation, parameters, f'{result["lr"]:g}']
        if not task.classes:
            row.append(_ours(result['mse'], digits) + _paper(paper_mse, 3 if digits == 4 else 1))
        row += [cell + _paper(paper_r2, 2), _peak(result)]
        by_lr = {r['lr']: score(r) for r in results if r['activation'] == activation}
        row += ['--' if by_lr.get(lr) is None else f'{by_lr[lr]:.2f}' for lr in lrs]
        lines.append('| ' + ' | '.join(row) + ' |')
    return '\n'.join(lines) + '\n'


def _ranked(results: Sequence[dict]) -> list[dict]:
    """The trainings kept, best first, those that diverged left out."""
    return sorted(
        (r for r in best(results).values() if score(r) is not None), key=lambda r: -score(r)
    )


def _pyplot():
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def draw_curves(name: str, task: Task, results: Sequence[dict], path: Path) -> None:
    """Draws MSE or accuracy over iterations (the paper's Figures 9, 10 and 12).

    Means over the seeds; activations at their best learning rates, those that diverged left out.

    Args:
        name: Of the task.
        task: The task.
        results: Trainings, each with its key and result.
        path: The PNG to write.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(9, 5))
    colours = plt.get_cmap('tab20').colors
    for i, result in enumerate(_ranked(results)):
        steps = [step for step, _ in result['curve']]
        # An MSE can overflow for a moment: a gap in the line.
        values = [nan if None in seeds else mean(seeds) for _, seeds in result['curve']]
        label = f'{result["activation"]} (lr {result["lr"]:g})'
        # DiTAC, which the experiment is about, stands out; the lines after 20 are dashed.
        ours = 'DiTAC' in result['activation']
        style = dict(lw=2.6 if ours else 1.2, ls='-' if i < len(colours) else '--')
        axis.plot(steps, values, label=label, color=colours[i % len(colours)], **style)
    axis.set(
        title=task.title,
        xlabel='Iteration',
        ylabel='Test accuracy (%)' if task.classes else 'MSE',
        yscale='linear' if task.classes else 'log',
    )
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(
            title='Best at the end first', fontsize=8, loc='upper left', bbox_to_anchor=(1.01, 1)
        )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_functions(name: str, task: Task, results: Sequence[dict], path: Path) -> None:
    """Draws the learned functions of the best DiTAC and of the best other activation (Figure 11).

    Args:
        name: Of the task.
        task: The task.
        results: Trainings, each with its key and result; the functions are those of seed 0.
        path: The PNG to write.
    """
    plt = _pyplot()
    ranked = _ranked(results)
    ditac = [r for r in ranked if 'DiTAC' in r['activation']][:1]
    others = [r for r in ranked if 'DiTAC' not in r['activation']]
    shown = ditac + others[: 2 - len(ditac)]
    x = torch.linspace(*task.curve, 401)
    target = FUNCTIONS[name](x.unsqueeze(1)).squeeze(1)
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(11, 4), sharey=True, squeeze=False)
    for axis, result in zip(axes[0], shown, strict=False):
        axis.plot(x, target, color='0.6', lw=3, label='target')
        axis.plot(x, result['function'], color='tab:red', lw=1.3, label=result['activation'])
        title = f'{result["activation"]}, lr {result["lr"]:g}: R2 {result["r2"][0]:.2f} %'
        axis.set(title=title, xlabel='x')
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc='lower left')
    figure.suptitle(task.title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
