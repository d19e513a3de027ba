# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Counts what configs build: parameters, those of activations, and multiply-adds.

    python -m projects.counts.built configs/matrix/*.py

builds each model at full size (conversion on a small picture), counts its multiply-adds where
nothing is computed (the ``meta`` device), and keeps the result in built.json, from which READMEs
have their numbers. Sizes of pictures: 800 x 1344 for MMDetection (with 1,000 boxes and 100 masks in
a second stage), the crop of MMSegmentation's config, the input of MMPose's, 224 x 224 for
MMPretrain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmact.activations import Activation

from .counter import UpsamplingCounter

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name('built.json')
CONVERTED = 'mmact.Converted'


class _LinspaceOnCPU(TorchFunctionMode):
    """Backbones read the rates of stochastic depth from a tensor, which has none on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        extra = {'device': 'cpu'} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **extra})


def build(cfg: Config) -> nn.Module:
    """The model of a config, without weights: its conversion needs a CPU, all else meta."""
    init_default_scope(cfg.default_scope)
    converted = CONVERTED in str(cfg.model)
    if cfg.model.type == CONVERTED:
        cfg.model.example = (
            1,
            3,
            *(picture_size(cfg) if cfg.default_scope == 'mmpose' else (64, 64)),
        )
    with torch.device('cpu' if converted else 'meta'), _LinspaceOnCPU():
        model = MODELS.build(cfg.model)
    return model.eval().to('meta')


def picture_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the picture that is counted."""
    if cfg.default_scope == 'mmseg':
        return tuple(cfg.crop_size)
    if cfg.default_scope == 'mmpose':
        width, height = cfg.codec.input_size
        return height, width
    return (800, 1344) if cfg.default_scope == 'mmdet' else (224, 224)


def run(model: nn.Module, size: tuple[int, int]) -> None:
    """Runs all parts of a model but what makes boxes, masks and labels of their outputs."""
    features = model.extract_feat(torch.empty(1, 3, *size, device='meta'))
    for name in ('decode_head', 'rpn_head', 'bbox_head', 'head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            head(features)
    if hasattr(model, 'roi_head'):
        for head, boxes, side in (
            (model.roi_head.bbox_head, 1000, 7),
            (model.roi_head.mask_head, 100, 14),
        ):
            head(torch.empty(boxes, 256, side, side, device='meta'))


def measure(path: Path) -> dict[str, Any]:
    """Counts a config.

    Returns:
        ``params`` and ``activation_params`` in units, ``activations``: learned ones; ``madds`` in
        millions on a picture of ``size``.
    """
    cfg = Config.fromfile(path)
    model = build(cfg)
    # An FReLU's convolution belongs to it.
    acts = [m for m in model.modules() if isinstance(m, Activation)]
    own = {id(p): p.numel() for act in acts for p in act.parameters()}
    params = sum(p.numel() for p in model.parameters())
    for module in list(model.modules()):
        for label, child in list(module.named_children()):
            # Not counted, and slow where nothing is computed.
            if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                setattr(module, label, nn.Identity())
    counter, upsampling = FlopCounterMode(display=False), UpsamplingCounter()
    with torch.no_grad(), torch.device('meta'), counter, upsampling:
        run(model, picture_size(cfg))
    return {
        'params': params,
        'activations': len(acts),
        'activation_params': sum(own.values()),
        'madds': round((counter.get_total_flops() / 2 + upsampling.madds) / 1e6, 1),
        'size': list(picture_size(cfg)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Counts configs and keeps what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', type=Path, help='configs to build')
    args = parser.parse_args(argv)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for path in args.configs:
        name = path.resolve().relative_to(ROOT).as_posix()
        results[name] = found = measure(path)
        print(
            f'{name}: {found["params"] / 1e6:.2f} M parameters, {found["activation_params"]:,} of '
            f'{found["activations"]} activations, {found["madds"]:,} M multiply-adds',
            flush=True,
        )
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + '\n')


if __name__ == '__main__':
    main()
