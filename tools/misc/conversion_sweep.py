#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Converts many models of OpenMMLab, torchvision and timm, and writes down what came of it.

One config of every folder of MMDetection, MMSegmentation, MMPose and MMPretrain, and one model of
every family of torchvision and timm, as far as they build on a CPU with what is installed. Each is
converted to PWLU, and where it has ReLU to PAU and DY-ReLU-B, and where it has GELU to DiTAC; then
one training step with PWLU. Results go into a JSON file as they come; what is there already is not
done again. print_conversion.py makes docs/conversion_sweep.md of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mmact
from mmact.conversion import REPLACES
from mmact.conversion.convert import _difference, _tensors
from mmact.conversion.dry_run import evaluating
from mmact.conversion.examples import runs

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_suffix('.json')

CODEBASES = ('mmdet', 'mmseg', 'mmpose', 'mmpretrain')
SIDE = 128

# Words of small models, the smallest first.
SMALL = (
    r'atto|femto|pico|nano|[-_](n|xxs|xxt)([-_0-9]|$)',
    r'tiny|mini|[-_](t|xt|xs|ti)([-_0-9]|$)|r18|resnet-?18|(^|[-_])b0|w18|x0\.?[0-9]',
    r'small|[-_]s([-_0-9]|$)|r34|light|(^|[-_])b1|400mf|[-_]8xb',
    r'r50|resnet-?50|mobile|w32',
    r'base|[-_]b([-_0-9]|$)',
)
LARGE = r'large|huge|giant|r101|x101|[-_](l|xl|h|g|x|m)([-_0-9]|$)|w48|w64|7b|1b|3b'

TORCHVISION = {
    None: (
        'alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet '
        'inception_v3 maxvit_t mnasnet0_5 mnasnet1_0 mobilenet_v2 mobilenet_v3_large '
        'mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d '
        'wide_resnet50_2 shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_t '
        'swin_v2_t vgg11 vgg11_bn vit_b_32'
    ),
    'segmentation': 'deeplabv3_mobilenet_v3_large deeplabv3_resnet50 fcn_resnet50 '
    'lraspp_mobilenet_v3_large',
    'video': 'mc3_18 mvit_v2_s r2plus1d_18 r3d_18 s3d swin3d_t',
    'detection': 'fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_resnet50_fpn_v2 '
    'fcos_resnet50_fpn keypointrcnn_resnet50_fpn maskrcnn_resnet50_fpn retinanet_resnet50_fpn_v2 '
    'ssd300_vgg16 ssdlite320_mobilenet_v3_large',
    'optical_flow': 'raft_small',
}

Build = Callable[[], tuple[nn.Module, Any]]


def jobs() -> Iterator[tuple[str, list[str]]]:
    """(name of a result, candidates of which the first that builds is taken)."""
    from mmengine.utils import get_installed_path

    for codebase in CODEBASES:
        configs = Path(get_installed_path(codebase)) / '.mim/configs'
        folders = sorted({path.parent for path in configs.rglob('*.py')})
        for folder in folders:
            name = folder.relative_to(configs).as_posix()
            if '_base_' not in name and name != 'common':
                files = sorted((p.stem for p in folder.glob('*.py')), key=_size)
                yield f'{codebase}/{name}', [f'{name}/{stem}.py' for stem in files]
    for group, names in TORCHVISION.items():
        for name in names.split():
            yield f'torchvision/{name}', [group or '']
    import timm

    for family in timm.list_modules():
        names = sorted(timm.list_models(module=family), key=_size)
        yield f'timm/{family}', [n for n in names if not n.startswith('test_')]


def _size(name: str) -> tuple:
    """Sorts small models first."""
    rank = next((i for i, words in enumerate(SMALL) if re.search(words, name)), len(SMALL))
    return bool(re.search(LARGE, name)), rank, len(name), name


def build(name: str, candidate: str) -> tuple[nn.Module, Any]:
    """A model with random weights, and the example to convert it with.

    Its BatchNorms have seen the example: with their first statistics the features of deep networks
    vanish, and with them what differences could be compared with.
    """
    model, example = _random_model(name, candidate)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    for sizes in (example, None) if isinstance(example, tuple) else (example,):
        way = next(way for way in runs(model, sizes)[0] if not way.training)
        with contextlib.suppress(Exception), torch.no_grad():
            way.run()
            example = sizes
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.train(), example


def _random_model(name: str, candidate: str) -> tuple[nn.Module, Any]:
    library, _, rest = name.partition('/')
    torch.manual_seed(0)
    if library in CODEBASES:
        return _build_config(library, candidate)
    if library == 'timm':
        import timm

        model = timm.create_model(candidate, pretrained=False)
        size = model.pretrained_cfg['input_size']
        if not model.pretrained_cfg.get('fixed_input_size') and size[-1] > SIDE:
            size = (size[0], SIDE, SIDE)
        return model, torch.randn(2, *size)
    import torchvision.models

    arguments = dict(weights=None)
    if candidate in ('detection', 'segmentation'):
        arguments['weights_backbone'] = None
    if rest in ('googlenet', 'inception_v3'):
        arguments['init_weights'] = False
    model = torchvision.models.get_model(rest, **arguments)
    if candidate == 'detection':
        return model, _detect
    if candidate == 'optical_flow':
        return model, lambda m: m(*torch.rand(2, 2, 3, SIDE, SIDE), num_flow_updates=2)
    if candidate == 'video':
        side = 224 if rest in ('mvit_v2_s', 's3d') else SIDE
        return model, torch.randn(1, 3, 16, side, side)
    side = {'maxvit_t': 224, 'vit_b_32': 224, 'inception_v3': 299}.get(rest, SIDE)
    return model, torch.randn(2, 3, side, side)


def _detect(model: nn.Module) -> Any:
    images = list(torch.rand(2, 3, SIDE, SIDE))
    points = torch.tensor([[[20.0 + 3 * i, 30.0 + 2 * i, 1.0] for i in range(17)]])
    masks = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 20:80, 10:100] = 1
    boxes = torch.tensor([[10.0, 20.0, 100.0, 80.0]])
    one = dict(boxes=boxes, labels=torch.ones(1, dtype=torch.long), keypoints=points, masks=masks)
    return model(images, [one, one]) if model.training else model(images)


def _build_config(codebase: str, path: str) -> tuple[nn.Module, Any]:
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.utils import get_installed_path

    cfg = Config.fromfile(f'{get_installed_path(codebase)}/.mim/configs/{path}')
    # Configs without a runtime, such as those of self-supervised pre-training, name no scope.
    init_default_scope(cfg.get('default_scope', codebase))
    model = MODELS.build(_quick(_random(cfg.model)))
    fixed = codebase == 'mmpose' or re.search('img_size|input_size', str(cfg.model))
    return model, None if fixed else (2, 3, SIDE, SIDE)


def _random(cfg: Any) -> Any:
    """A config of a model without the weights that it would load."""
    if isinstance(cfg, dict):
        for key, value in list(cfg.items()):
            if key == 'pretrained' or (
                key == 'init_cfg' and isinstance(value, dict) and value.get('type') == 'Pretrained'
            ):
                cfg[key] = False if value is True else None
            elif key == 'init_cfg':
                continue
            else:
                _random(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _random(value)
    return cfg


def features(model: nn.Module, example: Any) -> list[Tensor] | None:
    """Outputs of a detector's backbone and neck, which no choice of boxes cuts."""
    if not hasattr(model, 'extract_feat') or type(model).__module__.split('.')[0] != 'mmdet':
        return None
    torch.manual_seed(1)
    image = torch.randn(2, 3, 2 * SIDE, 2 * SIDE)
    with evaluating(model):
        try:
            return _tensors(model.extract_feat(image))
        except Exception:
            return None


def difference(
    before: list[Tensor] | None, after: list[Tensor] | None, report: mmact.conversion.Report
) -> float | None:
    """Largest difference of the features, or else of the outputs, as a share of the largest."""
    return _difference(before, after) if before and after else report.difference


def _quick(cfg: Any) -> Any:
    """A config of a detector whose second stage sees few boxes."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in ('max_per_img', 'num_proposals') and isinstance(value, int):
                cfg[key] = min(value, 20)
            else:
                _quick(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _quick(value)
    return cfg


def step(model: nn.Module, example: Any) -> dict[str, Any]:
    """Runs one training step; returns its loss and the parameters that got a gradient."""
    model.train()
    failures = []
    ways, _ = runs(model, example)
    for way in sorted(ways, key=lambda way: not way.training):
        model.train(way.training or len(ways) == 1)
        model.zero_grad()
        try:
            loss = sum(t.square().mean() for t in _losses(way.run()))
            loss.backward()
        except Exception as error:
            failures.append(f'{way.name}: {_line(error)}')
            continue
        got = [n for n, p in model.named_parameters() if p.grad is not None]
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
        finite = all(p.isfinite().all() for p in model.parameters())
        return dict(way=way.name, got=got, finite=bool(finite and loss.isfinite()))
    return dict(failed='; '.join(failures))


_CLASSES = ('left', 'unreached', 'stay')


def _class(kept: mmact.conversion.Kept) -> str:
    """Whether a site was left, stays by rule (gates, pooled branches), or is in code for others."""
    rules = ('below min_size', 'nothing calls it')
    if kept.was not in REPLACES or any(rule in kept.reason for rule in rules):
        return 'stay'
    return 'unreached' if kept.reason.startswith('stays for calls') else 'left'


def _losses(outputs: Any) -> list[Tensor]:
    """The tensors in a model's outputs that a gradient goes through."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.requires_grad else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in _losses(output)]
    return []


def _line(error: BaseException) -> str:
    return f'{type(error).__name__}: {_short(str(error))[:200]}'


def _short(text: str) -> str:
    """A message in one line, without where things are installed."""
    text = re.sub(r'[^\s\'"(]*(site-packages|pip-install-\w+/[^/]+)/', '', ' '.join(text.split()))
    return text.replace(f'{ROOT}/', '')


def examine(name: str, candidates: list[str], pwlu_only: bool = False) -> dict[str, Any]:
    """Builds, converts and trains one model."""
    failed, first = [], None
    for candidate in candidates[:8]:
        try:
            result = convert_and_train(name, candidate, pwlu_only)
        except _NotBuilt as error:
            failed.append(str(error))
            continue
        if not any('device cpu not found' in note for note in result['notes']):
            return result
        first = first or result  # an op has no kernel for CPUs: perhaps the next does without
    return first or dict(built=False, why=failed[0] if failed else 'no config')


class _NotBuilt(Exception):
    pass


def convert_and_train(name: str, candidate: str, pwlu_only: bool) -> dict[str, Any]:
    """Converts and trains one model that can be built.

    Raises:
        _NotBuilt: If it cannot.
    """
    try:
        model, example = build(name, candidate)
    except Exception as error:
        raise _NotBuilt(_line(error)) from None
    result: dict[str, Any] = dict(built=True, model=candidate)
    result['parameters'] = sum(p.numel() for p in model.parameters())
    keys = set(model.state_dict())
    before_features = features(model, example)
    before = step(model, example)
    del model
    gc.collect()

    model, example = build(name, candidate)
    try:
        report = mmact.convert(model, dict(type='PWLU'), example=example)
    except ValueError as error:
        if 'does not run on the example' not in str(error):
            raise
        example = None  # it goes by the layers beside the activations
        report = mmact.convert(model, dict(type='PWLU'))
    if isinstance(example, tuple) and any('below min_size' in k.reason for k in report.kept):
        # Perhaps for the small images only.
        del model
        model, example = build(name, candidate)[0], (2, 3, 2 * SIDE, 2 * SIDE)
        report = mmact.convert(model, dict(type='PWLU'), example=example)
    for kind in ('modules', 'functions'):
        function = kind == 'functions'
        replaced = [r for r in report.replaced if r.function == function]
        kept = [k for k in report.kept if k.function == function]
        reasons = Counter(_class(k) for k in kept)
        result[kind] = dict(replaced=len(replaced), **{c: reasons[c] for c in _CLASSES})
    result['was'] = dict(Counter(r.was for r in report.replaced))
    result['left'] = [
        [k.path, k.was, k.reason, Path(k.place).name] for k in report.kept if _class(k) != 'stay'
    ]
    result['notes'] = [_short(note) for note in report.notes]
    result['difference'] = dict(PWLU=difference(before_features, features(model, example), report))
    result['error'] = max((r.error for r in report.replaced if r.error is not None), default=None)
    result['keys lost'] = sorted(keys - set(model.state_dict()))
    after = step(model, example)
    # An activation in a frozen stage is frozen with it.
    added = [n for n, p in model.named_parameters() if n not in keys and p.requires_grad]
    if 'failed' in before or 'failed' in after:
        result['step'] = dict(before=before.get('failed'), after=after.get('failed'))
    else:
        got = set(after['got'])
        learned = {n.rpartition('.')[0] for n in before['got']}

        def learns(name: str) -> bool:
            """Whether an activation's parent got a gradient before the activation was there."""
            block = name.rsplit('.', 2)[0] + '.'
            return any((module + '.').startswith(block) for module in learned)

        without = [n for n in added if n not in got and learns(n)]
        lost = sorted(set(before['got']) - got)
        result['step'] = dict(way=after['way'], finite=after['finite'], without=without, lost=lost)
    del model

    def another(act: str, replaces: str) -> None:
        model, example = build(name, candidate)
        other = mmact.convert(model, dict(type=act), example=example, replaces=replaces)
        result['difference'][act] = difference(before_features, features(model, example), other)

    kinds = {} if pwlu_only else result['was']
    if 'ReLU' in kinds:
        another('PAU', 'ReLU')
        another('DyReLUB', 'ReLU')
    if 'GELU' in kinds:
        another('DiTAC', 'GELU')
    return result


def _isolated(pipe: Any, gigabytes: float, *arguments: Any) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter('ignore')
    try:
        result = examine(*arguments)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = _short(f'{where.filename}:{where.lineno}')
        result = dict(built=True, crashed=f'{_line(error)} ({place})')
    pipe.send(result)


def in_a_process(seconds: float, gigabytes: float, *arguments: Any) -> dict[str, Any]:
    """Examines a model in a process of its own, which may crash or take too long."""
    context = multiprocessing.get_context('fork')
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_isolated, args=(its, gigabytes, *arguments))
    process.start()
    its.close()
    try:
        late = dict(built=True, crashed=f'more than {seconds:g} s')
        result = mine.recv() if mine.poll(seconds) else late
    except EOFError:
        process.join()
        result = dict(built=True, crashed=f'the process ended with {process.exitcode}')
    process.kill()
    process.join()
    return result


def main() -> None:
    """Runs the sweep, or writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--only', default='', help='regular expression of names, such as mmdet/')
    parser.add_argument('--again', action='store_true', help='also what is in the results already')
    parser.add_argument('--results', type=Path, default=RESULTS, help='JSON file')
    parser.add_argument('--seconds', type=float, default=300, help='limit of a model')
    parser.add_argument('--gigabytes', type=float, default=6, help='limit of a model')
    parser.add_argument('--pwlu-only', action='store_true', help='leave the other activations out')
    parser.add_argument('--here', action='store_true', help='no process per model, to debug')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for package in CODEBASES:
        __import__(f'{package}.models')
    for name, candidates in jobs():
        results = json.loads(args.results.read_text()) if args.results.exists() else {}
        if not re.search(args.only, name) or (name in results and not args.again):
            continue
        start = time.perf_counter()
        if args.here:
            result = examine(name, candidates, args.pwlu_only)
        else:
            arguments = (name, candidates, args.pwlu_only)
            result = in_a_process(args.seconds, args.gigabytes, *arguments)
        result['seconds'] = round(time.perf_counter() - start)
        print(name, {k: v for k, v in result.items() if k != 'left'}, flush=True)
        # Another sweep may have added to it.
        results = json.loads(args.results.read_text()) if args.results.exists() else {}
        results[name] = result
        text = json.dumps(dict(sorted(results.items())), indent=1)
        args.results.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
