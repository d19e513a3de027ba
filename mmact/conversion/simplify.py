# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Making a trained model cheaper without changing what it computes, for deployment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from ..activations import APL, ELSA, PWLU, Activation, AReLU, Mixture, SReLU, to_pwlu
from ..activations.to_pwlu import _Rows
from ..ops._arguments import module as checked_module
from ..ops._arguments import number, one_of
from .dry_run import DryRun, evaluating
from .examples import runs
from .report import Kept, Replaced, Report
from .sites import Selection, slots_of

#: Functions of a few straight pieces, which are cheap as they are.
CHEAP = (APL, AReLU, ELSA, Mixture, SReLU)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def model_to_pwlu(
    model: nn.Module,
    max_error: float = 1e-3,
    include: Iterable[str | type] | str | type | None = None,
    exclude: Iterable[str | type] | str | type | None = None,
    keep: tuple[type[nn.Module], ...] = (),
    example: Any = None,
) -> Report:
    """Turns the elementwise activations of mmact in a model into PWLUs, in place.

    Each becomes what :func:`mmact.activations.to_pwlu` makes of it, on bounds that hold the inputs
    of the example.

    Args:
        model: Any module.
        max_error: Largest absolute error of an activation on its bounds.
        include: As of :func:`mmact.convert`.
        exclude: As of :func:`mmact.convert`.
        keep: Classes to leave as they are, besides PWLU.
        example: As of :func:`mmact.convert`; None: no dry run, default bounds.

    Returns:
        The layers that were replaced, with the errors; those that are not elementwise are kept.

    Raises:
        ValueError: If an include or exclude matches nothing.
    """
    checked_module('model_to_pwlu', model)
    max_error = number('model_to_pwlu', 'max_error', max_error, above=0)
    wanted = 'a tuple of classes'
    for kind in one_of('model_to_pwlu', 'keep', keep, tuple, wanted):
        one_of('model_to_pwlu', 'keep', kind, type, wanted)
    selection = Selection(model, include, exclude, None)
    dry = DryRun(model)
    if example is not None:
        with evaluating(model), dry:
            _evaluate(model, example)
    report = Report()
    for path, parent, name, module, kind in list(slots_of(model)):
        if not isinstance(module, Activation) or isinstance(module, (PWLU, *keep)):
            continue
        reason = selection.reason(path, kind, learned=True)
        calls = dry.modules.get(id(module), {}).values()
        low = min((call.low for call in calls), default=None)
        high = max((call.high for call in calls), default=None)
        try:
            if reason is not None:
                raise ValueError(reason)
            layer, error = _to_pwlu(module, max_error, low, high)
        except ValueError as problem:
            report.kept.append(Kept(path, kind, str(problem)))
            continue
        setattr(parent, name, layer)
        added = sum(p.numel() for p in layer.parameters())
        added -= sum(p.numel() for p in module.parameters())
        channels = layer.num_channels
        report.replaced.append(Replaced(path, kind, 'PWLU', channels, error, low, high, added))
    selection.check()
    return report


def _to_pwlu(
    module: nn.Module, max_error: float, low: float | None, high: float | None
) -> tuple[PWLU, float]:
    layer, error = to_pwlu(module, max_error=max_error)
    left, right = layer.bounds
    if low is None or high is None or (low >= left and high <= right):
        return layer, error
    # Beyond the bounds the PWLU goes on in straight lines; the function may not.
    given, made = _Rows(module), _Rows(layer)
    x = torch.linspace(low, high, 4097, dtype=torch.float64, device=given.like.device)
    x = x[(x < left) | (x > right)]
    with torch.no_grad():
        if (given(x) - made(x)).abs().max() <= max_error:
            return layer, error
    reach = 1.25 * max(-low, high, right, -left)
    return to_pwlu(module, max_error=max_error, bounds=(-reach, reach))


def _evaluate(model: nn.Module, example: Any) -> Any:
    way = next(way for way in runs(model, example)[0] if not way.training)
    try:
        return way.run()
    except Exception as error:
        raise ValueError(f'the model does not run on the example: {error}') from error


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors themselves in a model's outputs."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _tensors(output)


class _Chains(TorchFunctionMode):
    """Records which module's output is another's only input, while it is entered.

    Args:
        model: The model that is going to be run.
        watched: The classes that matter.
    """

    def __init__(self, model: nn.Module, watched: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.model, self.watched = model, watched
        self.pairs: list[tuple[nn.Module | None, nn.Module]] = []  # (producer, consumer) of a call
        self._made: dict[int, tuple[nn.Module, Tensor]] = {}  # keeps what it names alive
        self._uses: dict[int, int] = {}
        self._depth = 0

    def __enter__(self) -> _Chains:
        self._handles = []
        for module in self.model.modules():
            if isinstance(module, self.watched):
                self._handles += [
                    module.register_forward_pre_hook(self._before),
                    module.register_forward_hook(self._after),
                ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple) -> None:
        if not self._depth and args and isinstance(args[0], Tensor):
            x = args[0]
            producer = self._made.get(id(x), (None,))[0]
            self.pairs.append((producer, module))
            self._use(x)
        self._depth += 1

    def _after(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._depth -= 1
        if not self._depth and isinstance(output, Tensor):
            self._made[id(output)] = (module, output)

    def _use(self, x: Any) -> None:
        if id(x) in self._made:
            self._uses[id(x)] = self._uses.get(id(x), 0) + 1

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self._depth and getattr(func, '__name__', '') not in ('__get__', 'dim', 'size'):
            for value in (*args, *kwargs.values()):
                for one in value if isinstance(value, (tuple, list)) else (value,):
                    self._use(one)
        return func(*args, **kwargs)

    def following(self, outputs: Iterable[Tensor]) -> dict[nn.Module, nn.Module]:
        """{module: the module that alone sees each of its outputs, and sees nothing else}."""
        returned = {id(output) for output in outputs}
        shared = {
            module
            for key, (module, _) in self._made.items()
            if self._uses.get(key, 0) != 1 or key in returned
        }
        made = [module for module, _ in self._made.values()]
        found: dict[nn.Module, nn.Module] = {}
        for consumer in {consumer for _, consumer in self.pairs}:
            producers = {producer for producer, c in self.pairs if c is consumer}
            producer = producers.pop() if len(producers) == 1 else None
            consumers = {c for p, c in self.pairs if p is producer}
            calls = sum(c is consumer for _, c in self.pairs)
            if producer is None or producer in shared:
                continue
            if consumers == {consumer} and made.count(producer) == calls:
                found[producer] = consumer
        return found


def fold_batch_norms(model: nn.Module, example: Any) -> list[str]:
    """Folds BatchNorms in evaluation into the convolution before them or the PWLU behind them.

    A run on the example shows which BatchNorm sees the output of one convolution alone, and which
    PWLU that of one BatchNorm; what anything else sees too is left as it is.

    Args:
        model: The model, which is changed: a folded BatchNorm becomes ``nn.Identity``.
        example: As of :func:`mmact.convert`.

    Returns:
        Paths of the BatchNorms that were folded.
    """
    checked_module('fold_batch_norms', model)
    paths = {id(module): path for path, module in model.named_modules()}
    chains = _Chains(model, (*_CONVOLUTIONS, *_TRANSPOSED, _BatchNorm, PWLU))
    with evaluating(model), chains:
        following = chains.following(_tensors(_evaluate(model, example)))
    folded = []
    for module, norm in following.items():
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)) and _plain(module):
            training = module.training
            transposed = isinstance(module, _TRANSPOSED)
            fused = fuse_conv_bn_eval(module.eval(), norm.eval(), transpose=transposed)
            _replace(model, module, fused.train(training))
            _replace(model, norm, nn.Identity())
            folded.append(norm)
    for norm, act in following.items():
        if not isinstance(norm, _BatchNorm) or not isinstance(act, PWLU) or norm in folded:
            continue
        if norm.running_mean is not None:
            _replace(model, act, act.fold_affine(*_affine(norm)))
            _replace(model, norm, nn.Identity())
            folded.append(norm)
    return [paths[id(norm)] for norm in folded]


def _plain(module: _ConvNd) -> bool:
    """Whether a convolution is not standardised, parametrised or grouped backwards."""
    plain = next(c for c in (*_CONVOLUTIONS, *_TRANSPOSED) if isinstance(module, c))
    if type(module).forward is not plain.forward or is_parametrized(module):
        return False
    return plain in _CONVOLUTIONS or module.groups == 1


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in evaluation, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a module in every place of another."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
