# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact.convert``: learned activations at every call site of a model that is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.base import _output_channels, _surrounding_channels
from ..ops._arguments import choice, integer, number
from .dry_run import DryRun, evaluating
from .examples import Run, runs
from .kinds import kind_of, original_of
from .report import Kept, Replaced, Report
from .rewrite import restore, rewrite, spec_of
from .sites import Selection, Site, apart, find_sites, put_back, separate
from .start import ByWidth, Starter, activation_class


def convert(
    model: nn.Module,
    act_cfg: Mapping[str, Any],
    include: Iterable[str | type] | str | type | None = None,
    exclude: Iterable[str | type] | str | type | None = None,
    replaces: Iterable[str] | str | None = None,
    example: Any = None,
    sharing: str = 'site',
    min_size: int = 2,
    max_error: float | None = None,
) -> Report:
    r"""Replaces the activations of a model, in place, by others that start as the same functions.

    A dry run on an example finds the places where activations are called, as modules or as
    functions, with the width, size and range of their inputs. Parameters and buffers that the model
    had keep their names, so that its checkpoints load (``strict=False``).

    Args:
        model: Any module.
        act_cfg: ``dict(type=..., ...)`` of the new activations. Arguments that say how a function
            starts (``init``, ``bounds``, ``alphas``, ...) are chosen to fit where they are not
            given.
        include: The parts to convert: names or regular expressions of parts of a path
            (``'backbone'``, ``r'layer[34]\.0'``), names of classes, or classes; one or several.
            None: all of the model.
        exclude: The parts to leave as they are, in the same terms.
        replaces: Kinds of activations to replace. None: learned ones and those in
            :data:`mmact.conversion.REPLACES`; gates (Sigmoid, Hardsigmoid), Softmax and functions
            that end a branch (Tanh, Softplus) stay unless named here.
        example: A tensor; a tuple or dict of the model's arguments; the shape of an image batch; or
            a function of the model that runs it. None: for models of MMDetection, MMSegmentation,
            MMPretrain and MMPose an image and its annotations, of the size that the model asks for
            or 256; for others, inputs that their layers suggest.
        sharing: ``'site'``: each place in the code of a module where it calls an activation gets
            one of its own (a ResNet block's single ReLU becomes three); what one place does
            to five levels stays one. ``'module'``: what was one module stays one.
        min_size: Smallest feature map, in elements of a channel, whose activation is replaced
            (PWLU's section 4.1 leaves the 1x1 maps of squeeze-and-excitation out). Inputs (N, C),
            which are no maps, are replaced.
        max_error: Largest error of a start that is accepted, absolute, on the range of the place's
            inputs. None: any.

    Returns:
        The sites that were replaced and those that were not; ``print`` it.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, or an include or exclude matches nothing.
        KeyError: If no registry knows the activation.

    Example:
        >>> report = convert(torchvision.models.resnet50(), dict(type='PWLU'))
        >>> len(report.replaced)
        49
    """
    _check(model, sharing, min_size, max_error)
    activation_class(act_cfg)
    selection = Selection(model, include, exclude, replaces)
    ways, first_is_enough = runs(model, example)
    report = Report()
    changed = separate(model) if sharing == 'site' else []
    try:
        dry = DryRun(model)
        last, before, ran = _observe(model, dry, ways, first_is_enough, report)
        if example is not None and not ran:
            raise ValueError(f'convert: the model does not run on the example. {report.notes[-1]}')
        sites, report.kept, notes = find_sites(model, dry, selection, sharing)
        report.notes += notes
        planned = [(site, _plan(site, act_cfg, min_size, max_error)) for site in sites]
    except BaseException:
        put_back(changed)
        raise
    apart([(site, not isinstance(plan, Kept)) for site, plan in planned])
    installed: set[int] = set()
    for site, plan in planned:
        if isinstance(plan, Kept):
            report.kept.append(plan)
        else:
            act, error, channels = plan
            _install(site, act)
            installed.add(id(act))
            report.replaced.append(_replaced(site, act, error, channels))
    put_back([slot for slot in changed if id(slot[0]._modules[slot[1]]) not in installed])
    _tidy(model)
    if last is not None:
        with evaluating(model):
            report.difference = _difference(before, _tensors(last.run()))
    return report


def _check(model: nn.Module, sharing: str, min_size: int, max_error: float | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f'convert: model must be a torch.nn.Module, got {type(model).__name__}')
    if kind_of(model) is not None:
        raise ValueError(
            f'convert: the model is itself an activation, {type(model).__name__}; convert the '
            f'module that holds it'
        )
    choice('convert', 'sharing', sharing, ('site', 'module'))
    integer('convert', 'min_size', min_size, 0)
    if max_error is not None:
        number('convert', 'max_error', max_error, 0, wanted='None or >= 0')


def _observe(
    model: nn.Module, dry: DryRun, ways: list[Run], first_is_enough: bool, report: Report
) -> tuple[Run | None, list[Tensor], bool]:
    """Runs the model.

    Returns:
        The last way in evaluation that worked, its outputs, and whether any way worked.
    """
    last, outputs, failures, ran = None, [], [], False
    for way in ways:
        try:
            with evaluating(model, way.training), dry:
                result = way.run()
        except Exception as error:  # whatever a model raises on a made-up input
            failures.append(f'{way.name}: {type(error).__name__}: {error}'.partition('\n')[0])
            continue
        ran = True
        if not way.training:
            last, outputs = way, _tensors(result)
        if first_is_enough:
            failures.clear()
            break
    dry.complete = not failures and last is not None
    if failures:
        report.notes.append('A dry run failed. ' + '; '.join(failures))
    return last, outputs, ran


def _tensors(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in a model's outputs."""
    if isinstance(outputs, Tensor):
        return [outputs.detach().clone()] if outputs.is_floating_point() else []
    if hasattr(outputs, 'all_values'):  # samples and instances of MMEngine
        outputs = outputs.all_values()
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return []


def _difference(before: list[Tensor], after: list[Tensor]) -> float | None:
    if not before or [t.shape for t in before] != [t.shape for t in after]:
        return None
    # Without a detection, say, there is nothing to compare.
    largest = max((t.abs().max().item() for t in before if t.numel()), default=None)
    if largest is None:
        return None
    pairs = zip(after, before, strict=True)
    change = max((a - b).abs().max().item() for a, b in pairs if a.numel())
    return change / largest if largest else change


Plan = tuple[nn.Module, float | None, 'int | tuple[int, ...] | None']


def _plan(
    site: Site, act_cfg: Mapping[str, Any], min_size: int, max_error: float | None
) -> Plan | Kept:
    """The activation for a site, not installed yet; or why there is none."""

    def kept(reason: str) -> Kept:
        place = str(next(iter(site.own), site.position) or '')
        return Kept(site.path_before, site.original.kind, reason, place, site.function)

    calls = site.calls
    sizes = [call.map_size for call in calls if call.map_size is not None]
    if sizes and len(sizes) == len(calls) and max(sizes) < min_size:
        size = max(sizes)
        return kept(f'a map of {size} element{"s" * (size != 1)}, below min_size={min_size}')
    low = min((c.low for c in calls), default=None)
    high = max((c.high for c in calls), default=None)
    starter = Starter(act_cfg, site.original, low, high)
    ndim = len(calls[0].shape) if calls else 4
    try:
        if not starter.per_channel:
            plan: Plan = (*starter.build(None, None, ndim), None)
        else:
            found = _widths(site)
            if isinstance(found, str):
                return kept(found)
            dim, widths = found
            built = {width: starter.build(width, dim, ndim) for width in widths}
            if len(built) == 1:
                plan = (*built[widths[0]], widths[0])
            else:
                errors = [error for _, error in built.values() if error is not None]
                act = ByWidth(dim, {width: act for width, (act, _) in built.items()})
                plan = (act, max(errors, default=None), widths)
    except ValueError as problem:
        return kept(str(problem))
    error = plan[1]
    if max_error is not None and error is not None and error > max_error:
        return kept(f'the start would be off by {error:.2g}, above max_error={max_error:g}')
    return plan


def _widths(site: Site) -> tuple[int, tuple[int, ...]] | str:
    """(channel_dim, numbers of channels) of a site; or why they are not known."""
    known = sorted({call.channels for call in site.calls if call.channels is not None})
    dims = {call.channel_dim for call in site.calls if call.channel_dim is not None}
    if known and all(call.channel_dim is not None for call in site.calls):
        if len(dims) == 1:
            return dims.pop(), tuple(known)
        return f'its channels are at several dimensions, {sorted(dims)}'
    found = _around(site) if site.slots else None
    if found is None:
        return (
            'which dimension its channels are is not known'
            if site.calls
            else 'no dry run came to it, and the layers beside it do not tell its channels'
        )
    channels, dim = found
    for call in site.calls:
        size = call.shape[dim] if -len(call.shape) <= dim < len(call.shape) else None
        if size != channels:
            return f'the layer beside it has {channels} channels, its input {tuple(call.shape)}'
    return dim, (channels,)


def _around(site: Site) -> tuple[int, int] | None:
    """(channels, channel_dim) by the layers beside a site.

    Where the dry run did not come to it, only if they leave no choice: what is registered before an
    activation need not be what is called before it.
    """
    parent = site.parent
    if not site.calls and not isinstance(parent, nn.Sequential):
        widths = {_output_channels(child) for child in parent.children()} - {None}
        if len(widths) > 1:
            return None
    return _surrounding_channels(parent, site.name)


def _install(site: Site, act: nn.Module) -> None:
    parent = site.parent
    like = site.calls[0].like if site.calls else _like(parent)
    dtype = like.dtype if like.dtype != torch.float16 or _half(parent) else torch.float32
    act.to(device=like.device, dtype=dtype).train(parent.training)
    if any(call.changed for call in site.calls):
        act.register_forward_pre_hook(_copy_input)
    around = list(parent.parameters())
    frozen = bool(site.calls) and all(call.frozen for call in site.calls)
    if frozen or (around and not any(p.requires_grad for p in around)):
        act.requires_grad_(False)  # a frozen stage
    for owner, name in site.slots:
        setattr(owner, name, act)
    if site.own:
        setattr(parent, site.name, act)
        rewrite(parent, site.own)
    if isinstance(parent, nn.TransformerEncoderLayer):
        # Its fast path has ReLU and GELU built in.
        parent.activation_relu_or_gelu = 0


def _copy_input(act: nn.Module, args: tuple) -> tuple | None:
    """Keeps what backward needs from the code that changes it in place later."""
    return (args[0].clone(), *args[1:]) if args[0].requires_grad else None


def _like(parent: nn.Module) -> Tensor:
    return next((p for p in parent.parameters() if p.is_floating_point()), torch.empty(0))


def _half(parent: nn.Module) -> bool:
    return any(p.dtype == torch.float16 for p in parent.parameters())


def _replaced(
    site: Site, act: nn.Module, error: float | None, channels: int | tuple[int, ...] | None
) -> Replaced:
    one = next(iter(act.values())) if isinstance(act, ByWidth) else act
    return Replaced(
        site.path,
        site.original.label if site.original.slope else site.original.kind,
        type(one).__name__,
        channels,
        error,
        min((c.low for c in site.calls), default=None),
        max((c.high for c in site.calls), default=None),
        sum(p.numel() for p in act.parameters()),
        site.place,
        site.function,
    )


def _tidy(model: nn.Module) -> None:
    """Takes back what conversion back to the original functions has made needless."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, ByWidth) and _label(child) and not list(child.parameters()):
                setattr(module, name, next(iter(child.values())))
    for module in list(model.modules()):
        spec = spec_of(module)
        if spec and all(_label(getattr(module, own.child)) == own.label for own in spec.values()):
            restore(module)
            for own in spec.values():
                child = getattr(module, own.child)
                delattr(module, own.child)
                if own.instead_of and own.instead_of not in module._modules:
                    setattr(module, own.instead_of, child)


def _label(module: nn.Module) -> str | None:
    """The function of an activation, if there is one."""
    children = list(module.values()) if isinstance(module, ByWidth) else [module]
    labels = {original_of(child).label if kind_of(child) else None for child in children}
    return labels.pop() if len(labels) == 1 else None
