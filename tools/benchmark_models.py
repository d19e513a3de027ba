#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Measures whole models with learned activations beside the model as it was.

The model is converted (mmact.convert) for each activation, and BatchNorms and activations that
follow each other are fused (mmact.fuse). Every repetition runs all candidates once, one after the
other, on the same input; the table gives medians over the repetitions and quartiles of the ratios
to the original, pair by pair. Iterations are forward and backward, without the optimizer's step;
--inference leaves them out.

A candidate is the type of an activation, or the class of another library, MODULE:CLASS, which is
put in the same places: rational.torch:Rational, mmdet.models.layers:DyReLU. Behind it may stand
-separate (nothing is fused), -phase1 (PWLU collects statistics) and -compiled (torch.compile);
original-compiled is the original through torch.compile.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark import environment, seconds, summary
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import mmact
from mmact.activations import PWLU, Activation
from mmact.conversion.examples import runs

CONFIGS = {
    'mask-rcnn': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'upernet': 'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
    'pspnet': 'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'td-hm': 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
}
OTHERS = ('SiLU', 'PReLU')
WAYS = ('separate', 'phase1', 'compiled')
#: Times of inference that papers print, in ms, with their batch and GPU: Table 10 of DiTAC's,
#: Table 4 of PWLU's.
PAPER = {
    'mobilenet_v3_small': (1, 'P100', {'original': '9 ± 4', 'DiTAC': '16 ± 1'}),
    'convnext_small': (1, 'P100', {'original': '16 ± 2', 'DiTAC': '27 ± 1'}),
    'resnet18': (
        64,
        'V100',
        dict(original='17.1', SiLU='18.8', PWLU='19.9', FReLU='23.3', APL='40.7', PAU='64.2'),
    ),
    'mobilenet_v3_large': (
        64,
        'V100',
        dict(original='15.4', SiLU='15.7', PWLU='16.2', FReLU='18.1', APL='31.7', PAU='38.6'),
    ),
}
DEFAULT = ['SiLU', 'PReLU', 'PWLU', 'AReLU', 'PAU', 'DiTAC', 'DyReLUB', 'DyReLUC']


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--model',
        nargs='+',
        default=['resnet50'],
        help=f'mmact-resnet50, {", ".join(CONFIGS)}, timm:NAME, or a classifier of torchvision',
    )
    parser.add_argument(
        '--act',
        nargs='+',
        default=DEFAULT,
        metavar='CANDIDATE',
        help='what to measure beside the original (see above; default: %(default)s)',
    )
    parser.add_argument('--shape', type=int, nargs=4, default=(2, 3, 224, 224))
    parser.add_argument('--inference', action='store_true', help='measure nothing else')
    parser.add_argument('--format', default='contiguous', choices=('contiguous', 'channels_last'))
    parser.add_argument('--repeat', type=int, default=9, help='repetitions (default: 9)')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--out', type=Path, help='add all figures to this JSON-lines file')
    parser.add_argument('--plot', type=Path, metavar='PNG', help='draw the ratios')
    args = parser.parse_args()
    for candidate in args.act:
        unknown = set(candidate.split('-')[1:]) - set(WAYS)
        if unknown:
            parser.error(
                f'--act {candidate}: -{unknown.pop()} is none of {", ".join(f"-{w}" for w in WAYS)}'
            )
    return args


def build(name: str) -> nn.Module:
    """The original model."""
    torch.manual_seed(0)
    if name in CONFIGS:
        from mmengine.config import Config
        from mmengine.model import revert_sync_batchnorm
        from mmengine.registry import MODELS, init_default_scope
        from mmengine.utils import get_installed_path

        codebase, path = CONFIGS[name].split('::')
        cfg = Config.fromfile(f'{get_installed_path(codebase)}/.mim/configs/{path}')
        init_default_scope(codebase)
        cfg.model.backbone.pop('init_cfg', None)
        cfg.model.pop('pretrained', None)
        return revert_sync_batchnorm(MODELS.build(cfg.model))
    if name.startswith('timm:'):
        import timm

        return timm.create_model(name[5:])
    if name.startswith('mmact-'):
        from mmact.models.backbones.resnet import ResNet

        depth = int(re.sub(r'\D', '', name))
        return ResNet(depth, act_cfg=dict(type='ReLU', inplace=True), norm_eval=False)
    import torchvision

    return getattr(torchvision.models, name)()


def other(kind: str, width: int) -> nn.Module:
    """An activation that is not mmact's, for so many channels."""
    if kind == 'PReLU':
        return nn.PReLU(width, 0.0)
    if kind == 'SiLU':
        return nn.SiLU(inplace=True)
    module, name = kind.split(':')
    cls = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(cls).parameters.values()
    needs_width = any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return cls(width) if needs_width else cls()


def with_activation(
    model: nn.Module, candidate: str, shape: tuple[int, ...]
) -> tuple[nn.Module, int]:
    """A copy of the model as a candidate has it, and how many places are fused."""
    model, (kind, *ways), fused = copy.deepcopy(model), candidate.split('-'), 0
    foreign = kind in OTHERS or ':' in kind
    if kind != 'original':
        mmact.convert(model, dict(type='PWLU' if foreign else kind), example=(1, *shape[1:]))
    for parent in list(model.modules()) if foreign else ():
        for name, child in list(parent.named_children()):
            if isinstance(child, Activation):
                setattr(parent, name, other(kind, child.num_channels or 1))
    if not foreign and 'separate' not in ways:
        fused = mmact.fuse(model)
    for act in model.modules() if 'phase1' in ways else ():
        if isinstance(act, PWLU):
            act.start_collecting()
    if 'compiled' in ways:
        model.compile()
    return model, fused


def kept_bytes(model: nn.Module, iterate: Callable[[], Any]) -> int:
    """Memory that forward keeps for backward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        iterate()
    return sum(storages.values())


def total(outputs: Any) -> Tensor:
    """A scalar that every output has a part in."""
    floats = [t for t in tree_flatten(outputs)[0] if isinstance(t, Tensor) and t.requires_grad]
    return sum((t.float().mean() for t in floats), torch.zeros(()))


def measure(name: str, args: argparse.Namespace) -> list[dict]:
    """Times iterations and inference of the original and of all candidates, interleaved."""
    original = build(name).to(args.device)
    shape = tuple(args.shape)
    models, places = {'original': original}, {'original': 0}
    for candidate in args.act:
        models[candidate], places[candidate] = with_activation(original, candidate, shape)
    if args.format == 'channels_last':
        models = {k: m.to(memory_format=torch.channels_last) for k, m in models.items()}
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(args.device)
    if args.format == 'channels_last':
        x = x.contiguous(memory_format=torch.channels_last)

    def forward(model: nn.Module, training: bool) -> Callable[[], Any]:
        if name in CONFIGS:
            wanted = "mode='loss'" if training else "mode='tensor'"
            found, _ = runs(model, shape)
            return next(run.run for run in found if run.name.startswith(wanted))
        return lambda: model(x)

    def iteration(model: nn.Module) -> None:
        torch.manual_seed(0)  # of the heads' samplers
        total(forward(model, True)()).backward()
        model.zero_grad()

    def inference(model: nn.Module) -> None:
        with torch.no_grad():
            forward(model, False)()

    rows = {k: {'name': k, 'fused': places[k]} for k in models}
    kinds = {'iteration': iteration, 'inference': inference}
    if args.inference:
        del kinds['iteration']
    for kind, run in kinds.items():
        times: dict[str, list[float]] = {k: [] for k in models}
        for model in models.values():
            model.train(kind == 'iteration')
            run(model)
        for done in range(args.repeat):
            for k, model in models.items():
                times[k].append(seconds(lambda r=run, m=model: r(m), args.device))
            print(f'{name}: {kind} {done + 1} of {args.repeat}', end='\r', flush=True)
        for k, values in times.items():
            rows[k][kind] = summary(values, times['original'])
    if args.inference:
        return list(rows.values())
    for k, model in models.items():
        model.train()
        rows[k]['kept'] = kept_bytes(model, forward(model, True))
    return list(rows.values())


def table(rows: list[dict], gpu: str = '', paper: dict[str, str] | None = None) -> str:
    """The rows as a Markdown table.

    Args:
        rows: What :func:`measure` returns.
        gpu: What the paper measured on.
        paper: Times of inference to set beside ours, by the rows' names; None for no such column.
    """
    kinds = [kind for kind in ('iteration', 'inference') if kind in rows[0]]
    head = ['model', 'fused', *(h for kind in kinds for h in (f'{kind}, ms', 'x original'))]
    if 'kept' in rows[0]:
        head += ['kept for backward, MiB', 'x original']
    if paper is not None:
        head.append(f'paper ({gpu}), ms')
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row in rows:
        cells = [row['name'], str(row['fused'])]
        for kind in kinds:
            ms, (low, high) = row[kind]['ms'], row[kind]['quartiles']
            cells.append(f'{ms:.{0 if ms > 100 else 1}f}')
            cells.append(f'{row[kind]["ratio"]:.2f} ({low:.2f} to {high:.2f})')
        if 'kept' in row:
            cells += [f'{row["kept"] / 2**20:.0f}', f'{row["kept"] / rows[0]["kept"]:.2f}']
        if paper is not None:
            cells.append(paper.get(row['name'], ''))
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(found: dict[str, list[dict]], path: Path) -> None:
    """Draws the ratios to the original, a row of pictures for each model."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in ('iteration', 'inference') if kind in next(iter(found.values()))[0]]
    height = sum(1 + 0.3 * len(rows) for rows in found.values())
    figure = Figure(figsize=(5 * len(kinds) + 1, height), layout='constrained')
    axes = figure.subplots(len(found), len(kinds), squeeze=False, sharey='row')
    for line, (name, rows) in zip(axes, found.items(), strict=True):
        names = [row['name'] for row in rows]
        for ax, kind in zip(line, kinds, strict=True):
            ratios = [row[kind]['ratio'] for row in rows]
            low, high = zip(*(row[kind]['quartiles'] for row in rows), strict=True)
            spread = [
                [max(r - a, 0) for r, a in zip(ratios, low, strict=True)],
                [max(b - r, 0) for r, b in zip(ratios, high, strict=True)],
            ]
            bars = ax.barh(names, ratios, xerr=spread, color='tab:blue', alpha=0.7)
            ax.bar_label(bars, fmt=' %.2f', padding=8, fontsize=8)
            ax.axvline(1, color='black', linewidth=0.8)
            ax.set_xlim(0, 1.15 * max(high))
            ax.set_title(f'{name}: {kind}, times the original', fontsize=10)
        line[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    info = environment(args.device)
    print(', '.join(f'{key}: {value}' for key, value in info.items()), flush=True)
    found = {}
    for name in args.model:
        rows = found[name] = measure(name, args)
        batch, *paper = PAPER.get(name, (0,))
        text = table(rows, *paper) if args.shape[0] == batch else table(rows)
        print(f'\n{name}, {tuple(args.shape)}, {args.format}\n\n{text}', flush=True)
        if args.out:
            line = {'environment': info, 'model': name, 'shape': args.shape}
            with args.out.open('a') as file:
                file.write(json.dumps({**line, 'format': args.format, 'rows': rows}) + '\n')
    if args.plot:
        draw(found, args.plot)
        print(f'written: {args.plot}')


if __name__ == '__main__':
    main()
