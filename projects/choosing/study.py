# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the demos' detector, segmentor and pose net with several activations and seeds.

Each net learns from scratch with each activation at every place of its act_cfg, with the learning
procedure that the activation's paper has; and it is converted from its own ReLU checkpoint of the
same seed and trained for a quarter of the iterations more, at a tenth of the learning rate. ReLU's
row of the latter is the ReLU net trained on. Every training is ``tools/train.py``, which resumes.

    python -m projects.choosing.study

Data are the demos' drawn miniatures (data/mini_coco, data/mini_cityscapes: ``make demo`` and
``make demo-seg`` draw them). Run it again to continue after an interruption; results are in a file
of this folder, work in work_dirs/choosing.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median

import torch
from mmengine.config import Config, ConfigDict

from mmact.cli import one_line_errors
from mmact.models import Converted
from projects.digits.journal import Journal, complete, format_mean, positive
from projects.digits.training import check_activations

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name('study.jsonl')
WORK = Path('work_dirs/choosing')
ACTIVATIONS = ('ReLU', 'SiLU', 'PWLU', 'AReLU', 'PAU', 'DiTAC', 'DyReLUB', 'DyReLUC')
STARTS = ('scratch', 'converted')


@dataclass(frozen=True)
class Task:
    """A demo: its config, the miniature it reads, the name of its score, and 1 % of that."""

    config: str
    data: str
    metric: str
    label: str
    percent: float


TASKS = {
    'detection': Task(
        'mask-rcnn_pwlu_mini-coco.py', 'data/mini_coco', 'coco/bbox_mAP', 'box AP', 0.01
    ),
    'segmentation': Task(
        'pspnet_relu_mini-cityscapes.py', 'data/mini_cityscapes', 'mIoU', 'mIoU', 1
    ),
    'pose': Task(
        'td-hm_mobilenetv2-x05_relu_mini-coco.py', 'data/mini_coco', 'coco/AP', 'AP', 0.01
    ),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument('--activations', nargs='+', default=list(ACTIVATIONS), metavar='TYPE')
    parser.add_argument('--starts', nargs='+', choices=STARTS, default=list(STARTS))
    parser.add_argument(
        '--runs', type=positive(int), default=5, help='seeds 0, 1, ... (default: 5)'
    )
    parser.add_argument(
        '--length',
        type=positive(float),
        default=1.0,
        help="of a training, times the demo's (default: 1)",
    )
    parser.add_argument(
        '--results', type=Path, default=RESULTS, help=f'file of the results (default: {RESULTS})'
    )
    parser.add_argument('--picture', type=Path, help='where to draw every run and the means')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the tables."""
    args = parse_args(argv)
    with one_line_errors():
        for data in {TASKS[task].data for task in args.tasks}:
            if not Path(data).is_dir():
                raise FileNotFoundError(f'{data} is not there: `make {data}` draws it')
        check_activations({name: dict(type=name) for name in args.activations})
    keys = [
        dict(task=task, activation=name, start=start, length=args.length, seed=seed)
        for seed, start, task, name in product(
            range(args.runs), args.starts, args.tasks, args.activations
        )
    ]

    def describe(key: dict, result: dict) -> str:
        return f'{work_dir(key).name}: {result["score"]:.1f} in {result["cpu_seconds"]:.0f} s'

    results = complete(keys, Journal(args.results), run, describe)
    for task in args.tasks:
        print(table(task, [r for r in results if r['task'] == task]))
    if args.picture:
        draw(results, args.picture)


def work_dir(key: dict) -> Path:
    """The folder of a run."""
    return WORK / '_'.join(map(str, key.values()))


def config(key: dict) -> Config:
    """The config of a run, but for the checkpoint that a converted net starts from.

    Args:
        key: Task, activation, start, length and seed.
    """
    cfg = Config.fromfile(ROOT / 'configs/demo' / TASKS[key['task']].config)
    act_cfg = dict(type=key['activation'])
    scratch = key['start'] == 'scratch'
    model = cfg.model
    arguments = {}  # of the conversion that a demo has for what no act_cfg reaches
    demo_converts = model.type == 'mmact.Converted'
    if demo_converts:
        names = model.keys() & inspect.signature(Converted).parameters.keys()
        arguments = {name: model.pop(name) for name in names}
        model.type = arguments.pop('original')
        del arguments['act_cfg']
    set_act_cfg(model, act_cfg if scratch else dict(type='ReLU'))
    if key['activation'] != 'ReLU' and (demo_converts or not scratch):
        model.update(arguments if scratch else {})
        model.update(type='mmact.Converted', original=model.type, act_cfg=act_cfg)

    unit = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
    length = max(1, round(cfg.train_cfg[unit] * key['length'] / (1 if scratch else 4)))
    cfg.train_cfg.update({unit: length, 'val_interval': length})
    cfg.custom_hooks = []
    if scratch:
        for scheduler in cfg.param_scheduler:
            scheduler.begin = round(scheduler.get('begin', 0) * key['length'])
            scheduler.end = max(scheduler.begin + 1, round(scheduler.end * key['length']))
        phase1 = dict(type='PWLURealignHook', phase1=max(1, length // 4))
        cfg.custom_hooks += {
            'PWLU': [dict(**phase1, by_epoch=unit == 'max_epochs')],
            'DiTAC': [dict(type='ActivationRegularizerHook', weight=1e-5)],
        }.get(key['activation'], [])
    else:
        cfg.param_scheduler = []
        cfg.optim_wrapper.optimizer.lr /= 10
    cfg.default_hooks.checkpoint.update(save_best=None, max_keep_ckpts=1)
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks.logger.interval = 1
    cfg.randomness = dict(seed=key['seed'])
    return cfg


def set_act_cfg(node: ConfigDict | list, act_cfg: dict) -> None:
    """Sets every act_cfg in a config."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if name == 'act_cfg':
            node[name] = dict(act_cfg)
        elif isinstance(value, (dict, list)):
            set_act_cfg(value, act_cfg)


def relu_checkpoint(key: dict) -> Path:
    """The checkpoint that a converted net starts from; trained if it is not there."""
    scratch = dict(key, activation='ReLU', start='scratch')
    pointer = work_dir(scratch) / 'last_checkpoint'
    if not (work_dir(scratch) / 'finished').exists():
        run(scratch)
    return Path(pointer.read_text().strip())


def run(key: dict) -> dict:
    """Trains one net.

    Args:
        key: Task, activation, start, length and seed.

    Returns:
        ``score`` in %; ``iteration_ms``, the median without loading of data; ``cpu_seconds`` and
        ``peak_mib`` of the process with its evaluation; ``threads``.
    """
    cfg, folder = config(key), work_dir(key)
    command = [sys.executable, ROOT / 'tools/train.py', folder / 'study.py', '--work-dir', folder]
    if key['start'] == 'scratch':
        command.append('--resume')
    else:
        cfg.load_from = str(relu_checkpoint(key))
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'study.py')
    log = folder / 'log.txt'
    with log.open('a') as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.wait()
            raise
    if status:
        sys.exit(f'{folder.name}: training failed; see {log}')
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for file in logs for line in file.open()]
    task = TASKS[key['task']]
    scores = [row[task.metric] for row in rows if task.metric in row]
    seconds = [row['time'] - row['data_time'] for row in rows if 'loss' in row]
    if key['activation'] == 'ReLU' and key['start'] == 'scratch':
        (folder / 'finished').touch()
    else:
        shutil.rmtree(folder)
    return {
        'score': round(scores[-1] / task.percent, 3),
        'iteration_ms': round(1000 * median(seconds), 1),
        'cpu_seconds': round(usage.ru_utime + usage.ru_stime, 1),
        'peak_mib': round(usage.ru_maxrss / 1024),
        'threads': torch.get_num_threads(),
    }


def table(task: str, results: list[dict]) -> str:
    """The table of a task as Markdown; costs are means, as multiples of ReLU's.

    Args:
        task: Its name.
        results: Its runs.
    """
    runs = 1 + max(r['seed'] for r in results)
    label = TASKS[task].label
    starts = [start for start in STARTS if any(r['start'] == start for r in results)]
    lines = [
        f'{task}: {label} (%), mean ± standard deviation of {runs} runs; cost of a training from '
        "scratch in ReLU's.",
        '',
        '| activation | ' + ' | '.join([*starts, 'CPU time', 'peak memory']) + ' |',
        '|---|' + '---:|' * (len(starts) + 2),
    ]
    by_start = {start: groups(r for r in results if r['start'] == start) for start in starts}
    for name in next(iter(by_start.values())):
        cells = [format_mean([r['score'] for r in by_start[start][name]]) for start in starts]
        of_costs = next(iter(by_start.values()))
        for cost in ('cpu_seconds', 'peak_mib'):
            own, relu = (
                mean(r[cost] for r in of_costs[kind]) if kind in of_costs else float('nan')
                for kind in (name, 'ReLU')
            )
            cells.append(f'{own / relu:.2f}')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def groups(results: Iterable[dict]) -> dict[str, list[dict]]:
    """Runs by activation."""
    found: dict[str, list[dict]] = {}
    for result in results:
        found.setdefault(result['activation'], []).append(result)
    return found


def draw(results: list[dict], path: Path) -> None:
    """Draws each run as a point and each mean as a line, a panel for each task and start."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(r['task'] == task for r in results)]
    starts = [start for start in STARTS if any(r['start'] == start for r in results)]
    figure = Figure(figsize=(4 * len(tasks), 3 * len(starts)), layout='constrained')
    panels = figure.subplots(len(starts), len(tasks), squeeze=False, sharex=True)
    for row, start in enumerate(starts):
        for column, task in enumerate(tasks):
            axes = panels[row][column]
            own = groups(r for r in results if (r['task'], r['start']) == (task, start))
            for position, (name, runs) in enumerate(own.items()):
                scores = [r['score'] for r in runs]
                axes.plot([position] * len(scores), scores, 'o', color='tab:blue', alpha=0.5)
                axes.hlines(mean(scores), position - 0.3, position + 0.3, color='black')
                if name == 'ReLU':
                    axes.axhline(mean(scores), color='grey', linewidth=0.5)
            axes.set_xticks(range(len(own)), list(own), rotation=45, ha='right')
            axes.set_title(f'{task}, {start}', fontsize=10)
            axes.set_ylabel(f'{TASKS[task].label} (%)')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    main()
