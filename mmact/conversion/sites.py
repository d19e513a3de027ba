# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The call sites of a model: which of them there are, and which were chosen."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ..ops._arguments import refuse, shown
from .dry_run import Call, DryRun, FunctionalSite
from .kinds import REPLACES, STAYS, Original, kind_of, original_of
from .report import Kept
from .rewrite import Own, Position, call_site, written_calls

Slot = tuple[nn.Module, str]


@dataclass
class Site:
    """A place that gets one activation.

    Args:
        path: Where the activation will stand.
        original: The function there now.
        calls: Calls that the dry run saw; empty if it did not come here.
        slots: The children that it replaces, all by one module; empty for calls that are rewritten.
        caller: The module whose calls are rewritten.
        own: The rewritten calls.
        position: Its call, where the child in its slots is called at other places too.
        another: Makes a name for a child of its own, if one of those places keeps that child.
    """

    path: str
    original: Original
    calls: list[Call]
    slots: list[Slot] = field(default_factory=list)
    caller: nn.Module | None = None
    own: dict[Position, Own] = field(default_factory=dict)
    position: Position | None = None
    another: Callable[[], str] | None = None

    @property
    def child(self) -> tuple[int, str]:
        """The child that is called there before the conversion."""
        own = next(iter(self.own.values()), None)
        return id(self.parent), own.instead_of if own else self.name

    @property
    def path_before(self) -> str:
        """Path of that child; of a function, that of the child that it would become."""
        return self.path.removesuffix(self.name) + (self.child[1] or self.name)

    @property
    def parent(self) -> nn.Module:
        """The module that will hold the activation."""
        return self.slots[0][0] if self.caller is None else self.caller

    @property
    def name(self) -> str:
        """Its name there."""
        return self.path.rpartition('.')[2]

    @property
    def place(self) -> str:
        """File and line of a rewritten call."""
        return str(next(iter(self.own))) if self.own else ''

    @property
    def function(self) -> bool:
        """Whether it is a call of a function."""
        return any(not own.instead_of for own in self.own.values())


class Selection:
    """The choice that ``include``, ``exclude`` and ``replaces`` make among paths.

    Args:
        model: The model.
        include: As of :func:`mmact.convert`.
        exclude: As of :func:`mmact.convert`.
        replaces: As of :func:`mmact.convert`.

    Raises:
        ValueError: If a pattern is no regular expression.
    """

    def __init__(
        self,
        model: nn.Module,
        include: Iterable[str | type] | str | type | None,
        exclude: Iterable[str | type] | str | type | None,
        replaces: Iterable[str] | str | None,
    ) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._include = None if include is None else _patterns('include', include)
        self._exclude = _patterns('exclude', () if exclude is None else exclude)
        if isinstance(replaces, str):
            replaces = (replaces,)
        try:
            self._replaces = None if replaces is None else set(replaces)
        except TypeError:
            refuse('convert', 'replaces', 'names of kinds of activations', replaces, TypeError)
        self._matched: set[object] = set()

    def reason(self, path: str, kind: str, learned: bool = False) -> str | None:
        """Why a site stays; None if it is to be replaced."""
        # All patterns are tried, so that those that match nothing can be told.
        excluded = [p for p in self._exclude if self._matches(p, path)]
        included = [p for p in self._include or () if self._matches(p, path)]
        if not self.wants(kind, learned):
            return STAYS.get(kind, 'not in replaces')
        if excluded:
            return 'excluded'
        return None if self._include is None or included else 'not included'

    def wants(self, kind: str, learned: bool = False) -> bool:
        """Whether a kind of activation is to be replaced."""
        if self._replaces is not None:
            return kind in self._replaces
        return learned or kind in REPLACES

    def check(self) -> None:
        """Complains of a pattern that matched nothing.

        Raises:
            ValueError: If there is one.
        """
        for name, patterns in (('include', self._include), ('exclude', self._exclude)):
            for pattern in patterns or ():
                if pattern not in self._matched:
                    shown = pattern if isinstance(pattern, type) else pattern.pattern
                    raise ValueError(
                        f'convert: {name}={shown!r} matches no activation of the model: neither a '
                        f'part of a path, nor the class of a module that one stands in'
                    )

    def _matches(self, pattern: re.Pattern | type, path: str) -> bool:
        parts = path.split('.')
        above = [self._modules.get('.'.join(parts[:n])) for n in range(len(parts) + 1)]
        if isinstance(pattern, type):
            found = any(isinstance(module, pattern) for module in above)
        else:
            text = pattern.pattern
            found = bool(re.search(rf'(?:^|\.)(?:{text})(?:\.|$)', path)) or any(
                cls.__name__ == text for module in above for cls in type(module).__mro__
            )
        if found:
            self._matched.add(pattern)
        return found


def _patterns(name: str, given: Iterable[str | type] | str | type) -> list[re.Pattern | type]:
    # Tensors can be iterated over, some of them not without an error of PyTorch's.
    one = isinstance(given, (str, type, Tensor)) or not isinstance(given, Iterable)
    try:
        given = [given] if one else list(given)  # type: ignore[list-item, arg-type]
        return [p if isinstance(p, type) else re.compile(p) for p in given]
    except (re.error, TypeError) as error:
        raise ValueError(
            f'convert: {name} must hold names or regular expressions of paths, or classes; got '
            f'{shown(given)} ({error})'
        ) from None


def slots_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Module, str]]:
    """(path, parent, name, module, kind) of every activation, wherever it is registered."""
    for path, parent in model.named_modules():
        if kind_of(parent) is not None:
            continue  # what an activation is made of
        for name, module in parent._modules.items():
            kind = None if module is None else kind_of(module)
            if module is not None and kind is not None:
                yield f'{path}.{name}' if path else name, parent, name, module, kind


def separate(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Gives every place of a Sequential a module of its own where one stands in several.

    Returns:
        (parent, name, module) of the places that were changed, to undo it.
    """
    owners: dict[int, list[tuple[nn.Module, str, nn.Module]]] = {}
    for _, parent, name, module, _ in slots_of(model):
        owners.setdefault(id(module), []).append((parent, name, module))
    changed = []
    for slots in owners.values():
        inside = [slot for slot in slots if isinstance(slot[0], nn.Sequential)]
        # One place in a Sequential may have a second name outside, as in mmcv's FFN.
        if len(inside) < 2 or any(True for _ in slots[0][2].parameters()):
            continue
        for parent, name, module in inside[1:]:
            parent._modules[name] = copy.copy(module)
            changed.append((parent, name, module))
    return changed


def put_back(changed: list[tuple[nn.Module, str, nn.Module]]) -> None:
    """Undoes :func:`separate`."""
    for parent, name, module in changed:
        parent._modules[name] = module


def apart(chosen: Iterable[tuple[Site, bool]]) -> None:
    """Gives sites a child of their own where another place keeps the one that they would replace.

    Args:
        chosen: Each site, and whether it is to be replaced.
    """
    chosen = list(chosen)
    keep = {site.child for site, replaced in chosen if not replaced}
    for site, replaced in chosen:
        if replaced and site.position and site.another and site.child in keep:
            own = Own(site.another(), site.original.label, site.name)
            site.path = site.path.removesuffix(site.name) + own.child
            site.own, site.slots = {site.position: own}, []


def find_sites(
    model: nn.Module, dry: DryRun, selection: Selection, sharing: str
) -> tuple[list[Site], list[Kept], list[str]]:
    """Lists the sites of the chosen activations, those that stay, and what else to tell."""
    finder = _Finder(model, dry, selection, sharing)
    finder.modules()
    finder.functions()
    selection.check()
    return finder.sites, finder.kept, finder.notes


class _Finder:
    def __init__(self, model: nn.Module, dry: DryRun, selection: Selection, sharing: str) -> None:
        self.model, self.dry, self.selection, self.sharing = model, dry, selection, sharing
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.sites: list[Site] = []
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self._taken: dict[int, set[str]] = {}

    def path(self, parent: nn.Module, name: str) -> str:
        path = self.paths[id(parent)]
        return f'{path}.{name}' if path else name

    def new_name(self, module: nn.Module, stem: str) -> str:
        """A name that the module does not use: stem, stem_2, stem_3, ..."""
        taken = self._taken.setdefault(id(module), set())
        name, number = stem, 1
        while hasattr(module, name) or name in taken:
            number += 1
            name = f'{stem}_{number}'
        taken.add(name)
        return name

    def modules(self) -> None:
        """The sites of activation modules."""
        found: dict[int, tuple[nn.Module, str, list[tuple[str, Slot]]]] = {}
        for path, parent, name, module, kind in slots_of(self.model):
            found.setdefault(id(module), (module, kind, []))[2].append((path, (parent, name)))
        for module, kind, places in found.values():
            learned = type(module).__module__.startswith('mmact.')
            reasons = [self.selection.reason(path, kind, learned) for path, _ in places]
            reason = next(filter(None, reasons), None)
            if reason is not None:
                self.kept.append(Kept(places[0][0], kind, reason))
                continue
            self._module(module, [slot for _, slot in places])

    def _module(self, module: nn.Module, slots: list[Slot]) -> None:
        original = original_of(module)
        calls = list(self.dry.modules.get(id(module), {}).values())
        owners = {id(parent): (parent, name) for parent, name in slots}
        split = self.sharing == 'site' and all(
            call.caller is not None and id(call.caller) in owners for call in calls
        )
        if not split:
            self._whole(original, calls, slots)
            return
        called = {id(call.caller) for call in calls}
        aliases = [slot for slot in slots if id(slot[0]) not in called] if called else []
        for parent, name in owners.values():
            if not called or id(parent) in called:
                mine = [call for call in calls if call.caller is parent]
                # Its other names go with the first.
                names = [s for s in slots if s[0] is parent] + aliases
                aliases = []
                self._calls_of(original, mine, parent, name, names)

    def _calls_of(
        self, original: Original, calls: list[Call], parent: nn.Module, name: str, slots: list[Slot]
    ) -> None:
        """One child of one module: as many sites as there are places where it is called."""
        written = written_calls(parent, name)
        observed = sorted({call.position for call in calls if call.position is not None})
        unseen = written.difference(observed)
        found = {position: call_site(parent, position) for position in observed}
        for position, site in found.items():
            if site is not None and not site.result_used:
                reason, path = 'the result is not used: it works in place', self.path(parent, name)
                self.kept.append(Kept(path, original.kind, reason, str(position)))
                return
        if len(observed) < 2 and not (observed and unseen):
            if not calls and not written and self._runs_whole(parent):
                reason = f'nothing calls it: {type(parent).__name__} only holds it'
                self.kept.append(Kept(self.path(parent, name), original.kind, reason))
                return
            if not observed and len(written) > 1:
                where = ', '.join(map(str, sorted(written)))
                reason = 'called at several places that no dry run came to: pass an example'
                self.kept.append(Kept(self.path(parent, name), original.kind, reason, where))
                return
            self._whole(original, calls, slots)
            return
        if any(site is None or site.child != name for site in found.values()):
            where = next(str(p) for p, s in found.items() if s is None or s.child != name)
            self.notes.append(
                f'{self.path(parent, name)} stays one activation for {len(observed)} places: the '
                f'call at {where} is not written as self.{name}(...)'
            )
            self._whole(original, calls, slots)
            return
        if unseen:
            where = ', '.join(map(str, sorted(unseen)))
            reason = 'stays for calls that the dry run did not come to'
            self.kept.append(Kept(self.path(parent, name), original.kind, reason, where))
        sites: list[Site] = []
        for index, position in enumerate(observed):
            child = name if index == 0 and not unseen else self.new_name(parent, name)
            mine = [call for call in calls if call.position == position]
            own = {position: Own(child, original.label, name)} if child != name else {}
            path, names = self.path(parent, child), [] if own else slots
            sites.append(Site(path, original, mine, names, parent, own))
        if not sites[0].own:
            sites[0].position = observed[0]
            sites[0].another = partial(self.new_name, parent, name)
        self.sites += sites

    def _runs_whole(self, parent: nn.Module) -> bool:
        """Whether all that calls the children of a module is known."""
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        return self.dry.complete and not isinstance(parent, containers)

    def _whole(self, original: Original, calls: list[Call], slots: list[Slot]) -> None:
        self.sites.append(Site(self.path(*slots[0]), original, calls, slots))

    def functions(self) -> None:
        """The sites of functions."""
        found = sorted(
            self.dry.functions.items(),
            key=lambda item: (item[0][1] is None, item[0][1] or Position('', 0, 0)),
        )
        order = {key: index for index, key in enumerate(self.paths)}
        found.sort(key=lambda item: order.get(item[0][0], -1))
        for (_, position), site in found:
            if self.selection.wants(site.kind):
                self._function(position, site)

    def _function(self, position: Position | None, site: FunctionalSite) -> None:
        calls = list(site.calls.values())
        caller = calls[0].caller
        path = '' if caller is None else self.paths[id(caller)]
        place = '' if position is None else str(position)
        written = None if caller is None else call_site(caller, position)
        reason = ''
        if caller is None or position is None or written is None:
            reason = 'not in a method of a module of the model whose source is there'
        elif not written.result_used:
            reason = 'the result is not used: it works in place'
        elif len(site.originals) > 1:
            reason = 'called with different arguments'
        elif any(call.channels is None for call in calls):
            reason = 'which dimension its channels are is not known: perhaps no feature map'
        if reason or caller is None or position is None:
            self.kept.append(Kept(path, site.kind, reason, place, True))
            return
        stem = site.kind.lower()
        excluded = self.selection.reason(f'{path}.{stem}' if path else stem, site.kind)
        if excluded is not None:
            self.kept.append(Kept(path, site.kind, excluded, place, True))
            return
        child = self.new_name(caller, stem)
        original = site.originals[0]
        own = {position: Own(child, original.label)}
        self.sites.append(Site(self.path(caller, child), original, calls, [], caller, own))
