# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Everything public that takes arguments, with arguments that work, and odd ones in their place.

A call with odd arguments works, or raises a ValueError or TypeError that names one of them.
`python tests/odd_calls.py`, a part of `make soak`, tries 10,000; test_odd_calls.py some hundreds.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

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


CHANNELS = 4


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
        yield record.name, target(record.cls, dict)
        # In groups and by channel, so that everything depends on the shape.
        yield (
            f'{record.name}.forward',
            Target(
                lambda x, cls=record.cls: _built(cls)(x),
                lambda: dict(x=x()),
                ('x',),
                also={'x': ('input', 'forward')},
            ),
        )


def _built(cls: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, CHANNELS, 1), cls())[1]


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
    yield (
        'initial_coefficients',
        target(initial_coefficients, lambda: dict(init='tanh'), owner=('',)),
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
