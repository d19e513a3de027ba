#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Measures whole models with learned activations beside the model as it was.

A candidate of --act is the type of an activation, with which the model is converted
(mmact.convert), after which BatchNorms and activations that follow each other are fused
(mmact.fuse); ReLU (in place), SiLU (in place) and PReLU are PyTorch's. A class of another library,
MODULE:CLASS, is put in the same places: rational.torch:Rational, torch_activation:PAU,
mmdet.models.layers:DyReLU. Behind a candidate may stand -separate (nothing is fused), -compiled
(torch.compile, which fuses by itself) and, behind PWLU, -phase1 (it collects statistics). The model
as it was is called original. A candidate that does not run is a line in the table that says why.

Every repetition runs all candidates once, one after the other, on the same input; the table gives
medians over the repetitions and quartiles of the ratios to the base, pair by pair. Iterations are
forward and backward, without the optimizer's step; --inference leaves them out.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmark import FORMATS, environment, peak_memory, seconds, summary
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
#: PyTorch's, for so many channels.
OTHERS: dict[str, Callable[[int], nn.Module]] = {
    'ReLU': lambda channels: nn.ReLU(inplace=True),
    'SiLU': lambda channels: nn.SiLU(inplace=True),
    'PReLU': lambda channels: nn.PReLU(channels, 0.0),
}
WAYS = ('separate', 'phase1', 'compiled')
DEFAULT = ['SiLU', 'PReLU', 'PWLU', 'AReLU', 'PAU', 'DiTAC', 'DyReLUB', 'DyReLUC']

# Table 4 of the PWLU paper, 64 pictures on a V100. By Table 2's parameters its MobileNetV3 is the
# small one. Of training the text says that PWLU "is around 20% slower compared to ReLU".
_PWLU_TRAINING = {'ReLU': 1, 'PWLU': 1.2}
_PWLU_RESNET = {'ReLU': 17.1, 'SiLU': 18.8, 'PWLU': 19.9, 'FReLU': 23.3, 'APL': 40.7, 'PAU': 64.2}
_PWLU_MOBILE = {'ReLU': 15.4, 'SiLU': 15.7, 'PWLU': 16.2, 'FReLU': 18.1, 'APL': 31.7, 'PAU': 38.6}
#: Times that papers print, in ms or of ReLU's, by model and base. Those to the original are of
#: Table 10 of the DiTAC paper, one picture on a P100: 9 ± 4 ms to 16 ± 1, and 16 ± 2 to 27 ± 1.
PAPER: dict[tuple[str, str], dict[str, dict[str, float]]] = {
    ('mobilenet_v3_small', 'original'): {'inference': {'original': 9, 'DiTAC': 16}},
    ('convnext_small', 'original'): {'inference': {'original': 16, 'DiTAC': 27}},
    ('resnet18', 'ReLU'): {'iteration': _PWLU_TRAINING, 'inference': _PWLU_RESNET},
    ('mobilenet_v3_small', 'ReLU'): {'iteration': _PWLU_TRAINING, 'inference': _PWLU_MOBILE},
}


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        help='what to measure beside the base (default: %(default)s)',
    )
    parser.add_argument(
        '--base',
        default='original',
        metavar='CANDIDATE',
        help='what the ratios are to (default: %(default)s)',
    )
    parser.add_argument('--shape', type=int, nargs=4, default=(2, 3, 224, 224))
    parser.add_argument('--inference', action='store_true', help='measure nothing else')
    parser.add_argument('--format', default='contiguous', choices=list(FORMATS))
    parser.add_argument('--repeat', type=int, default=9, help='repetitions (default: 9)')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--out', type=Path, help='add all figures to this JSON-lines file')
    parser.add_argument('--plot', type=Path, metavar='PNG', help='draw the ratios')
    args = parser.parse_args()
    for candidate in (args.base, *args.act):
        kind, *ways = candidate.split('-')
        for way in ways:
            if way not in WAYS or (way == 'phase1' and kind != 'PWLU'):
                parser.error(f'{candidate}: there is no -{way} of {kind}')
    return args


def build(name: str, shape: tuple[int, ...]) -> nn.Module:
    """The original model, for images of a shape where it is made for one."""
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
        codec = cfg.model.get('head', {}).get('decoder')
        if codec:
            height, width = shape[2:]
            codec.update(input_size=(width, height), heatmap_size=(width // 4, height // 4))
        return revert_sync_batchnorm(MODELS.build(cfg.model))
    if name.startswith('timm:'):
        import timm

        return timm.create_model(name[5:])
    if name.startswith('mmact-'):
        from mmact.models.backbones.resnet import ResNet

        depth = int(re.sub(r'\D', '', name))
        return ResNet(depth, act_cfg=dict(type='ReLU', inplace=True), norm_eval=False)
    import torchvision

    model = getattr(torchvision.models, name)()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.inplace = False  # MobileNetV3's would spoil what a ReLU keeps for backward
    return model


def foreign(kind: str) -> Callable[[int], nn.Module]:
    """What makes a PyTorch activation, or another library's, for so many channels."""
    if kind in OTHERS:
        return OTHERS[kind]
    module, name = kind.split(':')
    cls = getattr(importlib.import_module(module), name)
    wanted = inspect.signature(cls).parameters.values()
    if any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in wanted):
        return cls
    return lambda channels: cls()


def with_activation(
    model: nn.Module, candidate: str, shape: tuple[int, ...]
) -> tuple[nn.Module, int]:
    """A copy of the model as a candidate has it, and how many places are fused."""
    model, (kind, *ways), fused = copy.deepcopy(model), candidate.split('-'), 0
    if kind in OTHERS or ':' in kind:
        make = foreign(kind)
        mmact.convert(model, dict(type='PWLU'), example=(1, *shape[1:]))
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Activation):
                    setattr(parent, name, make(child.num_channels or 1))
    elif kind != 'original':
        mmact.convert(model, dict(type=kind), example=(1, *shape[1:]))
        if 'separate' not in ways and 'compiled' not in ways:
            fused = mmact.fuse(model)
    if 'phase1' in ways:
        for module in model.modules():
            if isinstance(module, PWLU):
                module.start_collecting()
    if 'compiled' in ways:
        # All candidates of a run are one function to its cache, which otherwise holds eight graphs.
        importlib.import_module('torch._dynamo').config.recompile_limit = 256
        model.forward = torch.compile(model.forward)
    return model, fused


@contextmanager
def noting(row: dict, base: str) -> Iterator[None]:
    """Makes an error of a candidate a note in its row. Without the base nothing can be said."""
    try:
        yield
    except Exception as error:
        row['note'] = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        if row['name'] == base:
            raise SystemExit(f'{base}: {row["note"]}') from error


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
    """Times iterations and inference of the base and of all candidates, interleaved."""
    shape, base = tuple(args.shape), args.base
    original = build(name, shape)
    rows: dict[str, dict] = {k: {'name': k, 'fused': 0} for k in (base, *args.act)}
    models = {}
    for k, row in rows.items():
        with noting(row, base):
            model, row['fused'] = with_activation(original, k, shape)
            if args.device == 'cuda':
                model.cuda()
            if args.format == 'channels_last':
                model.to(memory_format=torch.channels_last)
            models[k] = model
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(args.device)
    x = x.contiguous(memory_format=FORMATS[args.format])

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

    kinds = {'iteration': iteration, 'inference': inference}
    if args.inference:
        del kinds['iteration']
    for kind, run in kinds.items():
        for k, model in models.items():
            model.train(kind == 'iteration')
            with noting(rows[k], base):
                run(model)  # warm-up, and compilation where there is one
        models = {k: m for k, m in models.items() if 'note' not in rows[k]}
        times: dict[str, list[float]] = {k: [] for k in models}
        for done in range(args.repeat):
            for k, model in models.items():
                times[k].append(seconds(lambda r=run, m=model: r(m), args.device))
            print(f'{name}: {kind} {done + 1} of {args.repeat}', end='\r', flush=True)
        for k, values in times.items():
            rows[k][kind] = summary(values, times[base])
    if not args.inference:
        for k, model in models.items():
            model.train()
            with noting(rows[k], base):
                rows[k]['peak'] = peak_memory(lambda m=model: iteration(m), args.device)
                rows[k]['kept'] = kept_bytes(model, forward(model, True))
    return list(rows.values())


def table(rows: list[dict], paper: dict[str, dict[str, float]]) -> str:
    """The rows as a Markdown table.

    Args:
        rows: What :func:`measure` returns; the base is the first.
        paper: Times of a paper, by kind and the rows' names, whose ratios to set beside ours.
    """
    base = rows[0]['name']
    kinds = [kind for kind in ('iteration', 'inference') if kind in rows[0]]
    sizes = [size for size in ('peak', 'kept') if size in rows[0]]
    head = ['model', 'fused']
    for kind in kinds:
        head += [f'{kind}, ms', f'x {base}', *(['in the paper'] if kind in paper else [])]
    for size in sizes:
        head += [f'{size}, MiB', f'x {base}']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row in rows:
        if 'note' in row:
            cells = [row['name'], row['note'].replace('|', '\\|'), *[''] * (len(head) - 2)]
            lines.append('| ' + ' | '.join(cells) + ' |')
            continue
        cells = [row['name'], str(row['fused'])]
        for kind in kinds:
            ms, (low, high) = row[kind]['ms'], row[kind]['quartiles']
            cells.append(f'{ms:.{0 if ms > 100 else 1}f}')
            cells.append(f'{row[kind]["ratio"]:.2f} ({low:.2f} to {high:.2f})')
            if kind in paper:
                time = paper[kind].get(row['name'])
                cells.append(f'{time / paper[kind][base]:.2f}' if time else '')
        for size in sizes:
            cells += [f'{row[size] / 2**20:.0f}', f'{row[size] / rows[0][size]:.2f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(results: dict[str, list[dict]], path: Path) -> None:
    """Draws the ratios and their quartiles, a row of pictures for each model."""
    from matplotlib.figure import Figure

    shown = {name: [row for row in rows if 'note' not in row] for name, rows in results.items()}
    first, *_ = next(iter(shown.values()))
    kinds = [kind for kind in ('iteration', 'inference') if kind in first]
    heights = [1 + 0.3 * len(rows) for rows in shown.values()]
    figure = Figure(figsize=(5 * len(kinds) + 1, sum(heights)), layout='constrained')
    grid = dict(squeeze=False, sharey='row', height_ratios=heights)
    for axes, (name, rows) in zip(
        figure.subplots(len(shown), len(kinds), **grid), shown.items(), strict=True
    ):
        for ax, kind in zip(axes, kinds, strict=True):
            for place, row in enumerate(rows):
                ratio, (low, high) = row[kind]['ratio'], row[kind]['quartiles']
                ax.barh(place, ratio, color='silver' if place == 0 else 'tab:blue', alpha=0.7)
                ax.plot([low, high], [place, place], color='black', linewidth=1.5)
                ax.text(max(ratio, high), place, f' {ratio:.2f}', va='center', fontsize=8)
            ax.axvline(1, color='black', linewidth=0.8, linestyle=':')
            ax.set_xlim(0, 1.15 * max(row[kind]['quartiles'][1] for row in rows))
            ax.set_yticks(range(len(rows)), [row['name'] for row in rows])
            ax.set_title(f'{name}: {kind}, x {first["name"]}', fontsize=10)
        axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    info = environment(args.device)
    print(', '.join(f'{key}: {value}' for key, value in info.items()), flush=True)
    results = {}
    for name in args.model:
        rows = results[name] = measure(name, args)
        text = table(rows, PAPER.get((name, args.base), {}))
        print(f'\n{name}, {tuple(args.shape)}, {args.format}\n\n{text}', flush=True)
        if args.out:
            found = {'environment': info, 'model': name, 'shape': args.shape}
            with args.out.open('a') as file:
                file.write(json.dumps({**found, 'format': args.format, 'rows': rows}) + '\n')
    if args.plot:
        draw(results, args.plot)


if __name__ == '__main__':
    main()
