# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Giving a call in a module's code an activation of its own.

``self.relu(x)`` at two places of a forward, or ``F.relu(x)``, becomes ``self.relu_2(x)``: the
method is compiled anew from its source with only these calls changed, and the module gets a
subclass of its class with that method. Nothing counts or looks up at run time, so that
checkpointing, compilation, tracing, copies and process groups see an ordinary module. The class has
the name of the original, lines keep their numbers, and pickle and deepcopy make it again.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import gc
import linecache
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import cast

from torch import nn

from ..activations import norm_act
from .norm_calls import NORM_ACT, FuseNorms


@dataclass(frozen=True, order=True)
class Position:
    """A call in a source file, known by its end."""

    filename: str
    line: int
    end_column: int

    def __str__(self) -> str:
        return f'{self.filename}:{self.line}'


@dataclass(frozen=True, order=True)
class Own:
    """The child that a module calls at a position instead.

    Args:
        child: Name of the child that is called.
        label: Label of the original, see :class:`mmact.conversion.kinds.Original`.
        instead_of: Name of the child that was called; empty for a function.
    """

    child: str
    label: str
    instead_of: str = ''


Spec = Mapping[Position, Own]


@dataclass(frozen=True)
class Fusion:
    """Calls that :func:`mmact.activations.norm_act` takes the place of.

    Args:
        pairs: Names of children (norm, activation): where the result of the first goes to the
            second, with a sum between them or not.
        idle: (name, value) of attributes that make code between the two do nothing: a flag that is
            False, or what is None or an ``nn.Identity``. Where one is something else when the
            method is called, the method is as it was.
        forward: Or a whole forward, for classes that do not write their calls.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    idle: tuple[tuple[str, object], ...] = ()
    forward: Callable | None = None


NO_FUSION = Fusion()


def position_of(frame: FrameType) -> Position | None:
    """Where the call stands that a frame is waiting for; None if Python does not tell."""
    code = frame.f_code
    if not hasattr(code, 'co_positions'):  # before Python 3.11
        return _only_call_on_line(code.co_filename, frame.f_lineno)
    position = list(code.co_positions())[frame.f_lasti // 2]
    _, line, _, column = position
    return None if line is None or column is None else Position(code.co_filename, line, column)


def _only_call_on_line(filename: str, line: int) -> Position | None:
    calls = [
        node
        for function in _functions(filename).values()
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and node.lineno == line
    ]
    ends = {_end(node) for node in calls}
    return Position(filename, *ends.pop()) if len(ends) == 1 else None


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    """(line, column) behind a parsed expression or statement."""
    return node.end_lineno or 0, node.end_col_offset or 0


def _parse(source: str) -> ast.Module:
    """Returns the tree of a source, parsed without the garbage collector.

    Python before 3.11.8 counts the depth of all its parses in one place: if a collection in the
    middle runs a finaliser, or lets another thread run, that parses too (each traceback of Python
    3.11 does), the count is wrong and ``SystemError`` follows (CPython issue 106905).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


@functools.lru_cache(maxsize=256)
def _functions(filename: str) -> dict[int, ast.FunctionDef]:
    """The functions of a file by the line where they or their decorators begin."""
    source = ''.join(linecache.getlines(filename))
    try:
        tree = _parse(source)
    except SyntaxError:
        return {}
    return {
        min([node.lineno, *(d.lineno for d in node.decorator_list)]): node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


@dataclass(frozen=True)
class _Method:
    """A method of a class, as it is written."""

    owner: type
    name: str
    attribute: Callable  # with its decorators
    function: FunctionType  # without
    node: ast.FunctionDef

    @property
    def self_name(self) -> str:
        return self.node.args.args[0].arg

    def holds(self, position: Position) -> bool:
        """Whether a position is in its code."""
        lines = range(self.node.lineno, _end(self.node)[0] + 1)
        return position.filename == self.function.__code__.co_filename and position.line in lines


def _undecorated(attribute: object, depth: int = 4) -> Iterator[FunctionType]:
    """The functions that a function or its decorators hold."""
    if isinstance(attribute, FunctionType) and depth:
        yield attribute
        for cell in attribute.__closure__ or ():
            try:
                yield from _undecorated(cell.cell_contents, depth - 1)
            except ValueError:  # an empty cell
                continue


def _methods(cls: type) -> Iterator[_Method]:
    for owner in cls.__mro__:
        if owner is nn.Module or owner is object:
            continue
        for name, attribute in vars(owner).items():
            for function in _undecorated(attribute):
                code = function.__code__
                node = _functions(code.co_filename).get(code.co_firstlineno)
                if node is not None and node.name == code.co_name == name and node.args.args:
                    yield _Method(owner, name, attribute, function, node)
                    break


@dataclass(frozen=True)
class CallSite:
    """A call in a method of a module's class."""

    method: _Method
    node: ast.Call

    @property
    def child(self) -> str | None:
        """NAME, if what is called is ``self.NAME``."""
        function = self.node.func
        if (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == self.method.self_name
        ):
            return function.attr
        return None

    @property
    def result_used(self) -> bool:
        """Whether the call is more than a statement that works in place."""
        return not any(
            isinstance(node, ast.Expr) and node.value is self.node
            for node in ast.walk(self.method.node)
        )


def call_site(module: nn.Module, position: Position | None) -> CallSite | None:
    """Finds a call in the methods of a module's class, or returns None."""
    if position is None:
        return None
    for method in _methods(original_class(module)):
        if not method.holds(position):
            continue
        for node in ast.walk(method.node):
            if isinstance(node, ast.Call) and _end(node) == (position.line, position.end_column):
                return CallSite(method, node)
    return None


def written_calls(module: nn.Module, child: str) -> set[Position]:
    """Where the methods that a module has say ``self.child(...)``, rewritten places left out."""
    cls = original_class(module)
    found = set()
    for method in _methods(cls):
        if getattr(cls, method.name, None) is not method.attribute:
            continue  # overridden
        for node in ast.walk(method.node):
            if isinstance(node, ast.Call) and CallSite(method, node).child == child:
                filename = method.function.__code__.co_filename
                found.add(Position(filename, *_end(node)))
    return found - set(spec_of(module))


def original_class(module: nn.Module) -> type:
    """The class of a module before it was rewritten."""
    return getattr(type(module), '_mmact_original', type(module))


def spec_of(module: nn.Module) -> dict[Position, Own]:
    """The calls that were rewritten in a module's class."""
    return dict(getattr(type(module), '_mmact_spec', {}))


def fusion_of(module: nn.Module) -> Fusion:
    """What was fused in a module's class."""
    return getattr(type(module), '_mmact_fusion', NO_FUSION)


def rewrite(module: nn.Module, spec: Spec, fusion: Fusion | None = None) -> None:
    """Makes a module call its own children at the given positions, besides those before.

    Args:
        module: Gets another class; the children must exist before its next forward.
        spec: Each position must have a :func:`call_site` in the module.
        fusion: What to fuse; by default what is.
    """
    spec = {**spec_of(module), **spec}
    fusion = fusion_of(module) if fusion is None else fusion
    module.__class__ = _rewritten(original_class(module), tuple(sorted(spec.items())), fusion)


def fusions(module: nn.Module, pairs: Collection[tuple[str, str]]) -> tuple[Fusion, int]:
    """Finds calls of the second child of a pair that are given the first's result.

    Args:
        module: Whose methods are read.
        pairs: Names of children.

    Returns:
        What can be fused, and how many calls that are.
    """
    found: list[tuple[str, str]] = []
    idle: set[tuple[str, object]] = set()
    for method in _methods(original_class(module)):
        calls = _calls_in(method, tuple(spec_of(module).items()))
        fuse = FuseNorms(method.self_name, pairs, _idle_attributes(module))
        fuse.visit(_Calls(method.self_name, calls).visit(copy.deepcopy(method.node)))
        found += fuse.found
        idle |= fuse.used
    return Fusion(tuple(sorted(set(found))), tuple(sorted(idle, key=str))), len(found)


def _idle_value(module: nn.Module, name: str) -> object:
    """False, None or ``'Identity'`` of an attribute that is so, else True."""
    value = vars(module).get(name, module._modules.get(name, True))
    if type(value) is nn.Identity:
        return 'Identity'
    return value if value is False or value is None else True


def _idle_attributes(module: nn.Module) -> set[tuple[str, object]]:
    names = {*vars(module), *module._modules} - {'training'}
    found = {(name, _idle_value(module, name)) for name in names if not name.startswith('_')}
    return {(name, value) for name, value in found if value is not True}


def restore(module: nn.Module) -> None:
    """Gives a module its original class again; its children stay."""
    module.__class__ = original_class(module)


def _calls_in(
    method: _Method, spec: tuple[tuple[Position, Own], ...]
) -> dict[tuple[int, int], str]:
    return {(p.line, p.end_column): own.child for p, own in spec if method.holds(p)}


@functools.cache
def _rewritten(
    cls: type, spec: tuple[tuple[Position, Own], ...], fusion: Fusion
) -> type[nn.Module]:
    methods: dict[type, dict[str, Callable]] = {}
    for method in _methods(cls):
        calls = _calls_in(method, spec)
        if not calls and not fusion.pairs:
            continue
        node = _Calls(method.self_name, calls).visit(copy.deepcopy(method.node))
        as_it_was = copy.deepcopy(node)
        fuse = FuseNorms(method.self_name, fusion.pairs, fusion.idle)
        fuse.visit(node)  # in place
        if calls or fuse.found:
            changed = _compiled(method, node)
            if fuse.used:
                changed = _guarded(changed, _compiled(method, as_it_was), fuse.used)
            methods.setdefault(method.owner, {})[method.name] = _redecorated(
                method.attribute, method.function, changed
            )
    metaclass: Callable[..., type] = type(cls)
    # A method of a base class goes into a subclass of that base, which Python's linearisation puts
    # right before it: super() finds it from where it found the original.
    bases = [
        metaclass(o.__name__, (o,), {**methods[o], '__module__': o.__module__})
        for o in cls.__mro__
        if o in methods and o is not cls
    ]
    namespace = {
        **methods.get(cls, {}),
        '__module__': cls.__module__,
        '__qualname__': cls.__qualname__,
        '__doc__': cls.__doc__,
        '__reduce_ex__': _reduce,
        '_mmact_original': cls,
        '_mmact_spec': spec,
        '_mmact_fusion': fusion,
        NORM_ACT: staticmethod(norm_act),
    }
    if fusion.forward is not None:
        namespace['forward'] = fusion.forward
    return metaclass(cls.__name__, (cls, *bases), namespace)


def _reduce(self: nn.Module, protocol: int) -> tuple:
    _, _, *state = cast(tuple, super(type(self), self).__reduce_ex__(max(protocol, 2)))
    spec = tuple(sorted(spec_of(self).items()))
    return (_new, (original_class(self), spec, fusion_of(self)), *state)


def _new(cls: type, spec: tuple, fusion: Fusion = NO_FUSION) -> nn.Module:
    rewritten = _rewritten(cls, spec, fusion)
    return rewritten.__new__(rewritten)


class _Calls(ast.NodeTransformer):
    def __init__(self, self_name: str, calls: dict[tuple[int, int], str]) -> None:
        self.self_name, self.calls = self_name, calls

    def visit_Call(self, node: ast.Call) -> ast.Call:
        child, function = self.calls.get(_end(node)), node.func
        self.generic_visit(node)
        if child is None:
            return node
        inputs = node.args[:1] or [k.value for k in node.keywords if k.arg in ('input', 'x')][:1]
        if not inputs and isinstance(function, ast.Attribute):  # x.relu()
            inputs = [function.value]
        own = ast.Attribute(ast.Name(self.self_name, ast.Load()), child, ast.Load())
        return ast.copy_location(ast.Call(own, inputs, []), node)


def _guarded(
    new: FunctionType, old: FunctionType, idle: Collection[tuple[str, object]]
) -> FunctionType:
    """The new function where what it takes for idle is, else the old one."""

    @functools.wraps(new)
    def method(self: nn.Module, *args, **kwargs):
        holds = all(_idle_value(self, name) == value for name, value in idle)
        return (new if holds else old)(self, *args, **kwargs)

    return cast(FunctionType, method)


def _compiled(method: _Method, node: ast.FunctionDef) -> FunctionType:
    """The undecorated function of a method with another body."""
    old = method.function
    node.decorator_list = []
    node.returns = None
    # In a class of the owner's name, so that private names are mangled and __class__ is a cell; in
    # a function that has the other free variables.
    body = ast.ClassDef(method.owner.__name__, [], [], [node], [])
    free = [ast.arg(name) for name in old.__code__.co_freevars if name != '__class__']
    outer = ast.FunctionDef('_', ast.arguments([], free, None, [], [], None, []), [body], [])
    for made in (body, outer):
        vars(made)['type_params'] = []  # a field from Python 3.12 on
    tree = ast.fix_missing_locations(ast.Module([outer], []))
    flags = old.__code__.co_flags & _FUTURE
    code = compile(tree, old.__code__.co_filename, 'exec', flags, dont_inherit=True)
    for name in ('_', method.owner.__name__, node.name):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, old.__globals__, old.__name__, old.__defaults__, closure)
    new.__kwdefaults__ = old.__kwdefaults__
    functools.update_wrapper(new, old)
    del vars(new)['__wrapped__']
    return new


_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag


def _redecorated(attribute: Callable, old: FunctionType, new: FunctionType) -> Callable:
    """A decorated method with another function in the place of the undecorated one."""
    if attribute is old:
        return new
    if not isinstance(attribute, FunctionType):
        return attribute
    cells = [
        types.CellType(_redecorated(cell.cell_contents, old, new))
        for cell in attribute.__closure__ or ()
    ]
    made = FunctionType(
        attribute.__code__,
        attribute.__globals__,
        attribute.__name__,
        attribute.__defaults__,
        tuple(cells),
    )
    made.__kwdefaults__ = attribute.__kwdefaults__
    made.__dict__.update(attribute.__dict__)
    if vars(made).get('__wrapped__') is old:
        vars(made)['__wrapped__'] = new
    return made
