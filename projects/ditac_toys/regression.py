# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The toy experiments of the DiTAC paper: regression and classification by small perceptrons.

Supplement of Chelly, Finder, Ifergane, Freifeld, Trainable Highly-expressive Activation Functions
(ECCV 2024), section A: Tables 7, 8 and 9, figures 9 to 12. Regressions train for 40,000 iterations
in batches of 98, classifications for 150 passes in batches of 64, all with Adam at a constant
learning rate and without weight decay. Every activation is trained with every learning rate, and
the one with the best mean over the seeds is kept for it, DiTAC like the others. Numbers are those
at the end of training, on points that are not trained on. Run it again to continue after an
interruption.

DiTAC starts at zero, as GELU, and without the paper's regulariser, which section A does not
mention; DiTAC-prior starts from a draw of the smoothness prior. DiTAC-authors starts from the prior
of the authors' program, which is another, and is regularised with its weight of 0.1;
DiTAC-authors-start is the same without the regulariser. Both are trained if asked for. PWLU is held
as ReLU for the first twentieth of a training, collects statistics and is aligned with them, as its
paper has it. tasks.py says what the paper leaves open about the tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mmact.cli import one_line_errors
from projects.digits.journal import Journal, Progress, positive
from projects.digits.phases import TwoPhases

from .nets import ACTIVATIONS, ON_REQUEST, VERSIONS, StackedMLP
from .report import describe, draw_curves, draw_functions, to_markdown
from .tasks import TASKS, Data, Task

POINTS = 80  # of a curve


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--task', nargs='+', default=list(TASKS), choices=list(TASKS), help='default: all'
    )
    parser.add_argument(
        '--activations',
        nargs='+',
        choices=list(ACTIVATIONS),
        metavar='NAME',
        help=f'default: {", ".join(n for n in ACTIVATIONS if n not in VERSIONS + ON_REQUEST)}; for '
        f'function_2d also {", ".join(VERSIONS)}; on request {", ".join(ON_REQUEST)}',
    )
    parser.add_argument(
        '--lr',
        nargs='+',
        type=positive(float),
        help='learning rates (default: 1e-2 1e-3, for gmm and mnist 1e-3 1e-4)',
    )
    parser.add_argument(
        '--seeds', type=positive(int), default=5, metavar='N', help='0 to N - 1 (default: 5)'
    )
    parser.add_argument(
        '--iterations',
        type=positive(int),
        metavar='N',
        help="length of a training (default: the paper's)",
    )
    parser.add_argument(
        '--jobs', type=positive(int), default=1, metavar='N', help='processes (default: 1)'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/ditac_regression'),
        help='folder of the results (default: work_dirs/ditac_regression)',
    )
    args = parser.parse_args(argv)
    args.task = list(dict.fromkeys(args.task))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then writes and prints the tables and figures."""
    args = parse_args(argv)
    with one_line_errors():
        for name in args.task:
            TASKS[name].load([0])  # a missing package shows now
        args.work_dir.mkdir(parents=True, exist_ok=True)
        journal = Journal(args.work_dir / 'results.jsonl')
    try:
        results = run_all(args, journal)
    except KeyboardInterrupt:
        print(f'\ninterrupted; the same command continues from {journal.path}', file=sys.stderr)
        sys.exit(130)
    text = '\n'.join(
        to_markdown(name, TASKS[name], [r for r in results if r['task'] == name])
        for name in args.task
    )
    (args.work_dir / 'tables.md').write_text(text)
    (args.work_dir / 'tables.json').write_text(json.dumps(results, indent=1) + '\n')
    print('\n' + text)
    for name in args.task:
        of_task = [r for r in results if r['task'] == name]
        draw_curves(name, TASKS[name], of_task, args.work_dir / f'{name}_curves.png')
        if TASKS[name].curve is not None:
            draw_functions(name, TASKS[name], of_task, args.work_dir / f'{name}_functions.png')
    print(f'written to {args.work_dir}: tables.md, tables.json and the figures')


def keys(args: argparse.Namespace) -> Iterator[dict]:
    """Returns the settings of each training, in the order of the tables."""
    for name in args.task:
        task = TASKS[name]
        names = args.activations or [
            a
            for a in ACTIVATIONS
            if a not in ON_REQUEST and (name == 'function_2d' or a not in VERSIONS)
        ]
        for activation in (a for a in ACTIVATIONS if a in names):
            for lr in sorted(set(args.lr or task.lrs), reverse=True):
                yield {
                    'task': name,
                    'activation': activation,
                    'lr': lr,
                    'seeds': args.seeds,
                    'iterations': args.iterations,
                }


def run_all(args: argparse.Namespace, journal: Journal) -> list[dict]:
    """Every training of the tables, from the journal where it is there already."""
    wanted = list(keys(args))
    missing = [key for key in wanted if journal.get(key) is None]
    progress = Progress(len(wanted), len(wanted) - len(missing))

    def add(key: dict, result: dict) -> None:
        journal.add(key, result)
        progress.step(
            f'{key["task"]}, {key["activation"]}, lr {key["lr"]:g}: {describe(result)} in '
            f'{result["seconds"]:.0f} s'
        )

    if args.jobs == 1:
        for key in missing:
            add(key, run(key))
    elif missing:
        # Threads do not survive a fork; spawned processes start clean.
        with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
            futures = {pool.submit(run, key): key for key in missing}
            try:
                for future in as_completed(futures):
                    add(futures[future], future.result())
            except BaseException:
                for process in active_children():  # they would train on for minutes
                    process.terminate()
                raise
    return [{**key, **journal.get(key)} for key in wanted]


def run(key: dict) -> dict:
    """Trains the networks of all seeds; see :func:`train`."""
    # Such small networks gain nothing from more, and so no result depends on a machine's cores.
    torch.set_num_threads(1)
    # Adam's moments of dead units fade into denormal numbers, which processors add slowly: without
    # them a training takes a quarter less, with the same result.
    torch.set_flush_denormal(True)
    try:
        seeds = range(key['seeds'])
        return train(key['task'], key['activation'], key['lr'], seeds, key['iterations'])
    finally:
        torch.set_flush_denormal(False)


def train(
    name: str, activation: str, lr: float, seeds: Sequence[int], iterations: int | None = None
) -> dict:
    """Trains the networks of some seeds at once.

    Args:
        name: Of the task.
        activation: One of :data:`ditac_nets.ACTIVATIONS`.
        lr: Learning rate.
        seeds: Each decides over the initial values and the order or choice of training points.
        iterations: Length of the training; None for the paper's.

    Returns:
        ``parameters`` of one network; ``iterations``; ``curve``, pairs of iterations done and
        values by seed: the MSE, in the unit of the target, or the accuracy in %. ``mse`` and ``r2``
        (in %), or ``accuracy``, at the end, by seed. Where a network diverged, they are None.
        ``function``, of the first seed, at 401 points of the task's domain if it has one.
        ``seconds``.
    """
    start = time.monotonic()
    task = TASKS[name]
    data = task.load(seeds)
    if iterations is None:
        iterations = task.iterations * max(1, data.steps) if task.classes else task.iterations
    net = StackedMLP(task.widths, activation, seeds)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    phases = TwoPhases(net, optimizer, max(1, iterations // 20))
    every = max(1, iterations // POINTS)
    curve = []
    for done, (x, y) in enumerate(islice(data.batches, iterations)):
        out = net(x)
        if task.classes:
            loss = F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction='sum') / y.size(1)
        else:
            loss = F.mse_loss(out, y, reduction='sum') / y.size(1)
        optimizer.zero_grad()
        (loss + net.regularizer()).backward()
        optimizer.step()
        phases.after_step(done + 1)
        if (done + 1) % every == 0 or done + 1 == iterations:
            curve.append((done + 1, _jsonable(measure(net, task, data))))
    result = {
        'parameters': net.num_parameters(),
        'iterations': iterations,
        'curve': curve,
        'seconds': round(time.monotonic() - start, 2),
    }
    if task.classes:
        return {**result, 'accuracy': curve[-1][1]}
    result['mse'] = curve[-1][1]
    variance = data.test_y.flatten(1).var(1, correction=0) * data.unit
    result['r2'] = [
        None if mse is None else 100 * (1 - mse / of_target)
        for mse, of_target in zip(result['mse'], variance.tolist(), strict=True)
    ]
    if task.curve is not None:
        x = torch.linspace(*task.curve, 401).reshape(1, -1, 1).expand(len(seeds), -1, -1)
        with torch.no_grad():
            result['function'] = _jsonable(net.eval()(x)[0, :, 0])
    return result


@torch.no_grad()
def measure(net: StackedMLP, task: Task, data: Data) -> Tensor:
    """MSE in the unit of the target, or accuracy in %, on the test set, (S,); NaN if diverged.

    Args:
        net: The networks.
        task: What they are trained for.
        data: Its data.
    """
    net.eval()
    out = net(data.test_x)
    net.train()
    if not task.classes:
        return (out - data.test_y).square().mean((1, 2)) * data.unit
    accuracy = 100 * (out.argmax(2) == data.test_y).float().mean(1)
    return accuracy.where(out.isfinite().all(2).all(1), math.nan)


def _jsonable(values: Tensor) -> list[float | None]:
    """JSON has no NaN."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


if __name__ == '__main__':
    main()
