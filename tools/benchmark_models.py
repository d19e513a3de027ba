#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Measures whole models with learned activations beside the model as it was.

The model is converted (mmact.convert) for each activation, and BatchNorms and activations that
follow each other are fused (mmact.fuse). Every repetition runs all candidates once, one after the
other, on the same input; the table gives medians over the repetitions and quartiles of the ratios
to the original, pair by pair. Iterations are forward and backward, without the optimizer's step;
--inference leaves them out.
"""

from __future__ import annotations

import argparse
import copy
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
from mmact.activations import Activation
from mmact.conversion.examples import runs

CONFIGS = {
    'mask-rcnn': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'upernet': 'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
    'pspnet': 'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'td-hm': 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
}
OTHERS = ('SiLU', 'PReLU')
#: Latency of the DiTAC paper's Table 10, in ms: one picture on a Tesla P100.
PAPER = {
    'mobilenet_v3_small': {'original': '9 ± 4', 'DiTAC': '16 ± 1'},
    'convnext_small': {'original': '16 ± 2', 'DiTAC': '27 ± 1'},
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
        help='types of activations; PWLU-separate is PWLU without fusion (default: %(default)s)',
    )
    parser.add_argument('--shape', type=int, nargs=4, default=(2, 3, 224, 224))
    parser.add_argument('--inference', action='store_true', help='measure nothing else')
    parser.add_argument('--format', default='contiguous', choices=('contiguous', 'channels_last'))
    parser.add_argument('--repeat', type=int, default=9, help='repetitions (default: 9)')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--out', type=Path, help='add all figures to this JSON-lines file')
    return parser.parse_args()


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


def with_activation(model: nn.Module, act: str, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A copy of the model with another activation, and how many places are fused."""
    model, kind = copy.deepcopy(model), act.removesuffix('-separate')
    learned = 'PWLU' if kind in OTHERS else kind
    mmact.convert(model, dict(type=learned), example=(1, *shape[1:]))
    if kind in OTHERS:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Activation):
                    width = child.num_channels or 1
                    new = nn.PReLU(width, 0.0) if kind == 'PReLU' else nn.SiLU(inplace=True)
                    setattr(parent, name, new)
        return model, 0
    return model, 0 if act.endswith('-separate') else mmact.fuse(model)


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
    for act in args.act:
        models[act], places[act] = with_activation(original, act, shape)
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


def table(rows: list[dict], paper: dict[str, str]) -> str:
    """The rows as a Markdown table.

    Args:
        rows: What :func:`measure` returns.
        paper: Latencies to set beside the inference, by the rows' names; empty for no such column.
    """
    kinds = [kind for kind in ('iteration', 'inference') if kind in rows[0]]
    head = ['model', 'fused', *(h for kind in kinds for h in (f'{kind}, ms', 'x original'))]
    if 'kept' in rows[0]:
        head += ['kept for backward, MiB', 'x original']
    if paper:
        head.append('paper (P100), ms')
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row in rows:
        cells = [row['name'], str(row['fused'])]
        for kind in kinds:
            ms, (low, high) = row[kind]['ms'], row[kind]['quartiles']
            cells.append(f'{ms:.{0 if ms > 100 else 1}f}')
            cells.append(f'{row[kind]["ratio"]:.2f} ({low:.2f} to {high:.2f})')
        if 'kept' in row:
            cells += [f'{row["kept"] / 2**20:.0f}', f'{row["kept"] / rows[0]["kept"]:.2f}']
        if paper:
            cells.append(paper.get(row['name'], ''))
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    info = environment(args.device)
    print(', '.join(f'{key}: {value}' for key, value in info.items()), flush=True)
    for name in args.model:
        rows = measure(name, args)
        text = table(rows, PAPER.get(name, {}) if args.shape[0] == 1 else {})
        print(f'\n{name}, {tuple(args.shape)}, {args.format}\n\n{text}', flush=True)
        if args.out:
            found = {'environment': info, 'model': name, 'shape': args.shape}
            with args.out.open('a') as file:
                file.write(json.dumps({**found, 'format': args.format, 'rows': rows}) + '\n')


if __name__ == '__main__':
    main()
