# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Everything public that takes arguments, with arguments that work, and odd ones in their place.

A call with odd arguments works, or raises a ValueError or TypeError that names one of them.
`python tests/odd_calls.py`, a part of `make soak`, tries 10,000; test_odd_calls.py some hundreds.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import math
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mmact
from mmact import ops
from mmact.activations import Activation, to_pwlu
from mmact.activations.base import _signature
from mmact.activations.functions import canonical_name, named_function
from mmact.activations.pau_fit import fit_pau
from mmact.activations.pau_init import initial_coefficients
from mmact.conversion import fold_batch_norms, model_to_pwlu
from mmact.ops._arguments import DTYPES


@dataclass(frozen=True)
class Target:
    """Something that can be called.

    Args:
        call: Takes arguments by name.
        given: Makes arguments that work; those that are missing have defaults.
        integers: Names of arguments that are integers.
        also: What a message may call an argument besides its name.
    """

    call: Callable[..., Any]
    given: Callable[[], dict[str, Any]] = dict
    names: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)


def target(call: Callable, given: Callable[[], dict[str, Any]] = dict, **also: tuple) -> Target:
    """A target whose arguments are read from its signature."""
    signature = _signature(call) if inspect.isclass(call) else inspect.signature(call)
    taken = {
        name: str(p.annotation)
        for name, p in signature.parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    # Accepted and ignored: it may be anything.
    names = tuple(name for name in taken if name != 'inplace')
    integers = tuple(n for n in names if re.fullmatch(r'int( \| None)?', taken[n]))
    return Target(call, given, names, integers, also)


CHANNELS = 8


def x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An input that wants a gradient."""
    g = torch.Generator().manual_seed(0)
    shape = shape or (2, CHANNELS, 3, 5)
    return torch.randn(shape, generator=g).to(dtype).requires_grad_()


def parameter(*shape: int) -> Tensor:
    """A learned parameter: ascending numbers."""
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape).requires_grad_()


def _op_targets() -> Iterator[tuple[str, Target]]:
    bounds = dict(left_bound=-1.0, right_bound=1.0, left_slope=0.0, right_slope=1.0)
    scalars = lambda: {n: torch.full((CHANNELS,), v) for n, v in bounds.items()}  # noqa: E731
    makers: dict[Callable, Callable[[], dict[str, Any]]] = {
        ops.arelu: lambda: dict(x=x(), alpha=parameter(1), beta=parameter(1), residual=True),
        ops.cpab: lambda: dict(x=x(), theta=parameter(CHANNELS, 3), domain=(-1.0, 1.0)),
        ops.dyrelu: lambda: dict(
            x=x(), coefficients=parameter(2, 4, CHANNELS), attention=parameter(2, 1, 3, 5)
        ),
        ops.dyrelu_squeeze: lambda: dict(x=x(), weight=parameter(CHANNELS)),
        ops.pau: lambda: dict(
            x=x(), numerator=parameter(CHANNELS, 4), denominator=parameter(CHANNELS, 3)
        ),
        ops.piecewise_linear: lambda: dict(
            x=x(),
            breakpoints=torch.zeros(CHANNELS, 1),
            slopes=parameter(CHANNELS, 2),
            offsets=parameter(CHANNELS, 2),
        ),
        ops.pwlu: lambda: dict(x=x(), **scalars(), points=parameter(CHANNELS, 5)),
    }
    for function, given in makers.items():
        yield f'ops.{function.__name__}', target(function, given)
    yield 'ops.has_kernel', target(ops.has_kernel, lambda: dict(name='pwlu', device_type='cpu'))


def _activation_targets() -> Iterator[tuple[str, Target]]:
    for record in mmact.list_activations():
        if not issubclass(record.cls, Activation):
            continue
        # Fits call what they are given a function.
        yield record.name, target(record.cls, dict, init=('function',), num_channels=('channels',))
        # In groups and by channel, so that everything depends on the shape.
        yield (
            f'{record.name}.forward',
            Target(
                lambda x, cls=record.cls: _built(cls, x)(x),
                lambda: dict(x=x()),
                ('x',),
                also={'x': ('input', 'forward')},
            ),
        )


def _built(cls: type[nn.Module], x: Any) -> nn.Module:
    torch.manual_seed(0)
    act = nn.Sequential(nn.Conv2d(1, CHANNELS, 1), cls())[1]
    if isinstance(x, Tensor):
        act.to(x.device)  # what is mixed is an error of PyTorch's own
    # A convolution wants x in its own dtype, as all of PyTorch's do.
    floating = isinstance(x, Tensor) and x.dtype in DTYPES
    return act.to(x.dtype) if floating and hasattr(act, 'conv') else act


def _silu(t: Tensor) -> Tensor:
    return t * t.sigmoid()


def _function_targets() -> Iterator[tuple[str, Target]]:
    net = lambda: nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), nn.ReLU())  # noqa: E731
    learned = lambda: nn.Sequential(nn.Conv2d(3, CHANNELS, 1), mmact.activations.SReLU())  # noqa: E731
    yield (
        'to_pwlu',
        target(to_pwlu, lambda: dict(activation=nn.SiLU(), num_intervals=8, max_error=1.0)),
    )
    yield 'fit_pau', target(fit_pau, lambda: dict(function=_silu, m=2, n=1, num_points=101))
    fitted = inspect.signature(initial_coefficients).parameters
    names = tuple(name for name in fitted if name != 'owner')
    yield (
        'initial_coefficients',
        Target(
            initial_coefficients,
            lambda: dict(init='tanh', m=3, n=2),
            names,
            ('m', 'n'),
            {'init': ('function',)},
        ),
    )
    for function in (canonical_name, named_function):
        name = next(iter(inspect.signature(function).parameters))
        yield (
            function.__name__,
            Target(
                lambda value, function=function: function(value, 'PWLU'),
                lambda: dict(value='tanh'),
                ('value',),
                also={'value': (name, 'init', 'function')},
            ),
        )
    yield (
        'convert',
        target(
            mmact.convert,
            lambda: dict(model=net(), act_cfg=dict(type='PWLU'), example=(1, 3, 8, 8)),
        ),
    )
    yield 'fuse', target(mmact.fuse, lambda: dict(model=learned()))
    layers = lambda: dict(norm=nn.BatchNorm2d(CHANNELS), act=mmact.activations.PWLU(CHANNELS))  # noqa: E731
    yield (
        'norm_act',
        # What does not fit is refused by the norm and by PyTorch's addition, in their words.
        Target(mmact.activations.norm_act, lambda: dict(x=x(), **layers()), ('norm', 'act')),
    )
    yield 'model_to_pwlu', target(model_to_pwlu, lambda: dict(model=learned(), max_error=1.0))
    yield (
        'fold_batch_norms',
        target(fold_batch_norms, lambda: dict(model=net().eval(), example=(1, 3, 8, 8))),
    )


def _figure_targets() -> Iterator[tuple[str, Target]]:
    from mmact import visualization as v

    net = lambda: nn.Sequential(nn.Conv2d(3, CHANNELS, 1), mmact.activations.PWLU())  # noqa: E731
    samples = lambda: {'1': torch.randn(CHANNELS, 64)}  # noqa: E731
    pairs = lambda: torch.randn(2, 64)  # noqa: E731
    yield 'InputRecorder', target(v.InputRecorder, lambda: dict(model=net()))
    yield 'PairRecorder', target(v.PairRecorder, lambda: dict(model=net()))
    yield 'input_quantiles', target(v.input_quantiles, lambda: dict(samples=samples()['1']))
    yield (
        'alignment_iou',
        target(v.alignment_iou, lambda: dict(module=net()[1], quantiles=parameter(CHANNELS, 2))),
    )
    yield 'spread', target(v.spread, lambda: dict(pairs=pairs()))
    yield 'plot_functions', target(v.plot_functions, lambda: dict(model=net(), inputs=samples()))
    yield 'plot_alignment', target(v.plot_alignment, lambda: dict(model=net(), inputs=samples()))
    yield 'plot_dynamics', target(v.plot_dynamics, lambda: dict(samples={'1': pairs()}))
    for function in (v.scalar_activations, v.activation_layers):
        yield function.__name__, target(function, lambda: dict(model=net()))
    yield (
        'activations_from_state_dict',
        target(v.activations_from_state_dict, lambda: dict(state_dict=net().state_dict())),
    )


def _engine_targets() -> Iterator[tuple[str, Target]]:
    from mmengine.hooks import CheckpointHook

    from mmact import engine

    yield 'LearnedActivationHook', target(engine.LearnedActivationHook)
    yield 'PWLURealignHook', target(engine.PWLURealignHook)
    yield (
        'ActivationRegularizerHook',
        target(engine.ActivationRegularizerHook, lambda: dict(weight=1.0)),
    )
    # Of MMEngine's arguments, those that it takes for granted.
    checked = ('interval', 'max_keep_ckpts', 'save_begin')
    assert set(checked) <= set(inspect.signature(CheckpointHook).parameters)
    yield (
        'ResumableCheckpointHook',
        Target(engine.ResumableCheckpointHook, dict, checked, checked),
    )
    sgd = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1))
    names = ('activation_lr_mult', 'activation_decay_mult')
    yield (
        'ActivationParamConstructor',
        Target(lambda **kw: engine.ActivationParamConstructor(copy.deepcopy(sgd), kw), dict, names),
    )


def _model_targets() -> Iterator[tuple[str, Target]]:
    from mmact.models.backbones import MobileNetV2, MobileNetV3

    # Those that go to mmcv's and MMEngine's builders as they are.
    theirs = ('conv_cfg', 'norm_cfg', 'init_cfg', 'norm_eval', 'with_cp')

    def own(call: Callable, given: Callable[[], dict] = dict, more: tuple[str, ...] = ()) -> Target:
        found = target(call, given)
        names = tuple(n for n in (*found.names, *more) if n not in theirs)
        return Target(call, given, names, (*found.integers, *more), found.also)

    yield 'MobileNetV2', own(MobileNetV2, lambda: dict(widen_factor=0.1))
    yield 'MobileNetV3', own(MobileNetV3, lambda: dict(widen_factor=0.1))
    sizes = ('num_stages', 'in_channels', 'stem_channels', 'base_channels', 'frozen_stages')
    resnet = lambda: dict(depth=18, base_channels=4)  # noqa: E731
    if find_spec('mmdet'):
        from mmact.models.backbones.resnet import ResNet
        from mmact.models.necks.dyhead import TaskAwareAttention

        # What MMDetection refuses with errors of its own is its own matter.
        yield 'ResNet', Target(ResNet, resnet, sizes[1:], ('depth', *sizes))
        yield 'TaskAwareAttention', target(TaskAwareAttention, lambda: dict(num_channels=8))
    if find_spec('mmseg'):
        from mmact.models.backbones.resnet_v1c import ResNetV1c

        yield 'ResNetV1c', Target(ResNetV1c, resnet, sizes[1:], ('depth', *sizes))
    if find_spec('mmpose'):
        from mmact.models.heads.inverted_residual_heatmap_head import InvertedResidualHeatmapHead

        # The last ones go to MMPose's HeatmapHead.
        found = own(
            InvertedResidualHeatmapHead,
            lambda: dict(in_channels=8, out_channels=3, blocks=((2, 3, 1, 8),)),
        )
        names = tuple(n for n in found.names if n not in ('final_layer', 'loss', 'decoder'))
        yield (
            'InvertedResidualHeatmapHead',
            Target(found.call, found.given, names, found.integers),
        )


def targets() -> dict[str, Target]:
    """Everything that can be called with what is installed, by name."""
    groups = [_op_targets, _activation_targets, _function_targets]
    if find_spec('matplotlib'):
        groups.append(_figure_targets)
    if find_spec('mmengine'):
        groups.append(_engine_targets)
        if find_spec('mmcv'):
            groups.append(_model_targets)
    return dict(pair for group in groups for pair in group())


# Odd values ---------------------------------------------------------------------------------------


class Unprintable:
    """An object whose repr fails, and that fails whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError('no repr')

    def __float__(self) -> float:
        raise RuntimeError('no number')


def _tensors() -> list[Tensor]:
    base = torch.randn(2, CHANNELS, 3, 5, generator=torch.Generator().manual_seed(1))
    found = [torch.zeros(shape) for shape in ((), (0,), (1,), (CHANNELS,), (3, 7), (1,) * 7)]
    found += [torch.zeros(2, 0, 3), torch.zeros(0, CHANNELS), torch.zeros(2, CHANNELS + 1, 3)]
    kinds = (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float16, torch.float64)
    found += [base.to(kind) for kind in (*kinds, torch.bfloat16)]
    found += [base.to_sparse(), base[0, 0].to_sparse_csr(), base.to('meta')]
    found += [torch.full((2, CHANNELS, 3), value) for value in (math.nan, math.inf, -math.inf)]
    found += [base.transpose(0, 3), base.expand(3, *base.shape)[:, 0], base[::2, ::3]]
    found += [torch.quantize_per_tensor(base, 0.1, 0, torch.qint8)]
    found += [torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)])]
    if hasattr(torch, 'float8_e4m3fn'):
        found.append(base.to(torch.float8_e4m3fn))
    return found


def values() -> list[Any]:
    """What nobody expects."""
    plain = [None, True, False, 0, 1, -1, 2, 3, 7, 500, -(10**6), 2**63, 10**400]
    plain += [0.0, -0.0, 0.5, 1.5, -2.5, 1e-300, 1e300, math.nan, math.inf, -math.inf, 1j]
    plain += ['', 'relu', 'affine', 'prior', 'A', 'nonsense', 'torch.sin', 'os.system', '\n', 'é']
    plain += [b'bytes', (), [], {}, set(), (1,), [1, 2], (0.0, 1.0), (1.0, 0.0), ('a', 'b')]
    plain += [(math.nan, 1.0), [None, None], [[1.0, 2.0]], {'type': 3}, {'a': 1}, {'type': None}]
    plain += [range(3), iter([1.0]), object(), Unprintable(), type, int, len, lambda: 3]
    plain += [
        nn.ReLU(),
        torch.sin,
        nn.Module,
        NotImplemented,
        Ellipsis,
        slice(1),
        torch.device('cpu'),
    ]
    numpy = [np.int64(3), np.float32(0.5), np.bool_(True), np.array(2), np.zeros(2)]
    return plain + numpy + _tensors() + [torch.float32, torch.Size([2])]


def try_one(name: str, t: Target, odd: dict[str, Any]) -> str | None:
    """Calls with odd arguments in the place of those that work; returns what is wrong, if it is."""
    words = {word for argument in odd for word in (argument, *t.also.get(argument, ()))}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            result = t.call(**{**t.given(), **odd})
            first = result[0] if isinstance(result, tuple) and result else result
            if isinstance(first, Tensor) and first.requires_grad and first.device.type != 'meta':
                first.sum().backward()
    except (ValueError, TypeError) as error:
        text = str(error)
        if any(re.search(rf'\b{word}\b', text) for word in words):
            return None
        return f'{name}: {shown(odd)}: the message has no name: {type(error).__name__}: {text}'
    except Exception as error:
        return f'{name}: {shown(odd)}: {type(error).__name__}: {error}'
    return None


def shown(odd: dict[str, Any]) -> str:
    """The arguments of a call, for a complaint."""
    return ', '.join(f'{name}={_short(value)}' for name, value in odd.items())


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f'{value.layout} {value.dtype} {value.device} {tuple(_shape(value))}'
    try:
        return repr(value)[:80]
    except Exception:
        return type(value).__name__


def _shape(value: Tensor) -> tuple:
    return ('nested',) if value.is_nested else value.shape


def complaints(count: int, seed: int) -> list[str]:
    """What was wrong with so many calls, drawn from all targets and their arguments alike."""
    chosen = random.Random(seed)
    known = {name: t for name, t in targets().items() if t.names}
    found = []
    for _ in range(count):
        name = chosen.choice(list(known))
        t = known[name]
        changed = chosen.sample(t.names, min(len(t.names), chosen.choice((1, 1, 1, 2))))
        # Fresh ones, because some are used up or changed.
        odd = {argument: chosen.choice(values()) for argument in changed}
        found.append(try_one(name, t, odd))
    return [complaint for complaint in found if complaint]


def main() -> None:
    """Prints complaints, and exits with status 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=10_000, help='default: 10,000')
    parser.add_argument('--seed', type=int, default=0, help='of the choice (default: 0)')
    args = parser.parse_args()
    found = complaints(args.count, args.seed)
    print('\n'.join(found))
    print(f'{args.count} odd calls of {len(targets())} things: {len(found)} complaints')
    sys.exit(bool(found))


if __name__ == '__main__':
    main()
