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
import linecache
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import cast

from torch import nn

from ..activations import norm_act


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


@functools.lru_cache(maxsize=256)
def _functions(filename: str) -> dict[int, ast.FunctionDef]:
    """The functions of a file by the line where they or their decorators begin."""
    source = ''.join(linecache.getlines(filename))
    try:
        tree = ast.parse(source)
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
        fuse = _Fuse(method.self_name, pairs, _idle_attributes(module))
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
        fuse = _Fuse(method.self_name, fusion.pairs, fusion.idle)
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
        _NORM_ACT: staticmethod(norm_act),
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


# The name under which a class has norm_act.
_NORM_ACT = '_mmact_norm_act'


class _Fuse(ast.NodeTransformer):
    """``v = self.bn(x)``, perhaps ``v += r``, and ``v = self.act(v)`` become one call.

    Statements between them may stand there if they leave v alone, or are idle. The first two may be
    the end of an inner function, whose result is given to the activation, as in OpenMMLab's blocks.
    """

    def __init__(
        self,
        self_name: str,
        pairs: Collection[tuple[str, str]],
        idle: Collection[tuple[str, object]] = (),
    ) -> None:
        self.self_name, self.pairs, self.idle = self_name, set(pairs), set(idle)
        self.found: list[tuple[str, str]] = []
        self.used: set[tuple[str, object]] = set()  # of what is idle

    def visit(self, node: ast.AST) -> ast.AST:
        """Of a node and all below it, the calls within statements first."""
        self.generic_visit(node)
        for field in ('body', 'orelse', 'finalbody'):
            block = getattr(node, field, None)
            if isinstance(block, list):
                self._fuse_block(block)
        return self._nested(node) if isinstance(node, ast.Call) else node

    def _child(self, node: ast.AST | None) -> tuple[str, ast.expr] | None:
        """(NAME, x) of ``self.NAME(x)``."""
        if not isinstance(node, ast.Call) or len(node.args) != 1 or node.keywords:
            return None
        function = node.func
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            return None
        if function.value.id != self.self_name or isinstance(node.args[0], ast.Starred):
            return None
        return function.attr, node.args[0]

    def _call(self, norm: str, act: str, *arguments: ast.expr) -> ast.Call:
        self.found.append((norm, act))
        own = [
            ast.Attribute(ast.Name(self.self_name, ast.Load()), name, ast.Load())
            for name in (_NORM_ACT, norm, act)
        ]
        return ast.Call(own[0], [*own[1:], *arguments], [])

    def _nested(self, node: ast.Call) -> ast.Call:
        outer = self._child(node)
        inner = self._child(outer[1]) if outer else None
        if outer is None or inner is None or (inner[0], outer[0]) not in self.pairs:
            return node
        return ast.copy_location(self._call(inner[0], outer[0], inner[1]), node)

    def _fuse_block(self, block: list[ast.stmt]) -> None:
        for statement in list(block):  # statements before it may have gone
            for i in [i for i, s in enumerate(block) if s is statement]:
                if isinstance(statement, ast.FunctionDef):
                    self._fuse_inner(block, i)
                else:
                    self._fuse_from(block, i)

    def _attribute(self, node: ast.AST) -> str | None:
        """NAME of ``self.NAME``."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return node.attr if node.value.id == self.self_name else None
        return None

    def _idle(self, statement: ast.stmt, name: str) -> tuple[str, object] | None:
        """What makes a statement do nothing: an attribute and its value."""
        found: tuple[str | None, object] = (None, None)
        child = self._child(getattr(statement, 'value', None))
        if isinstance(statement, ast.If) and not statement.orelse:
            test = statement.test
            found = (self._attribute(test), False)  # if self.NAME:
            if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot):
                right = test.comparators[0]
                if isinstance(right, ast.Constant) and right.value is None:
                    found = (self._attribute(test.left), None)  # if self.NAME is not None:
        elif child and _assigned(statement) == name and ast.unparse(child[1]) == name:
            found = (child[0], 'Identity')
        return cast(tuple[str, object], found) if found in self.idle else None

    def _start(self, block: list[ast.stmt], end: int, name: str) -> tuple[int, list[int]] | None:
        """Where ``name = self.NORM(x)`` stands before ``end``, and what is idle between them."""
        idle = []
        for i in range(end - 1, -1, -1):
            child = self._child(getattr(block[i], 'value', None))
            if child and _assigned(block[i]) == name and any(child[0] == n for n, _ in self.pairs):
                return i, idle
            if self._idle(block[i], name):
                idle.append(i)
            elif not _leaves_alone(block[i], name):
                return None
        return None

    def _take(self, block: list[ast.stmt], start: int, idle: list[int], *others: int) -> None:
        """Leaves the norm out, and what is idle or of no use any more."""
        first = cast(ast.Assign, block[start])
        name = _assigned(first) or ''
        first.value = cast(ast.Call, first.value).args[0]
        self.used |= {use for i in idle if (use := self._idle(block[i], name))}
        for i in sorted([*idle, *others], reverse=True):
            del block[i]

    def _fuse_inner(self, block: list[ast.stmt], position: int) -> None:
        inner = cast(ast.FunctionDef, block[position])
        last = inner.body[-1]
        if len(inner.body) < 3 or len(block) < position + 3 or not isinstance(last, ast.Return):
            return
        name = last.value.id if isinstance(last.value, ast.Name) else ''
        addend = _added(inner.body[-2], name)
        found = self._start(inner.body, len(inner.body) - 2, name) if addend else None
        given, statement = block[position + 1 : position + 3]
        act = self._child(getattr(statement, 'value', None))
        taken = _assigned(statement)
        if addend is None or found is None or act is None or taken is None:
            return
        norm = self._child(getattr(inner.body[found[0]], 'value', None))
        uses = [n for s in block for n in ast.walk(s) if getattr(n, 'id', None) == inner.name]
        results = [n for n in ast.walk(given) if isinstance(n, ast.Assign)]
        if norm is None or (norm[0], act[0]) not in self.pairs or len(uses) != len(results):
            return
        if not all(_assigned(n) == taken and _gives(n.value, inner.name) for n in results):
            return
        if not isinstance(act[1], ast.Name) or act[1].id != taken:
            return
        # A checkpoint runs the norm twice, whose buffers count it: only where it is turned off.
        flags = {(self._attribute(n), False) for n in ast.walk(given)} - {(None, False)}
        if isinstance(given, ast.If) and (not flags or not flags <= self.idle):
            return
        self.used |= cast(set[tuple[str, object]], flags)
        call = self._call(norm[0], act[0], ast.Starred(act[1], ast.Load()))
        cast(ast.Assign, statement).value = ast.copy_location(call, statement)
        self._take(inner.body, *found, len(inner.body) - 2)
        last.value = ast.copy_location(ast.Tuple([last.value, addend], ast.Load()), last)

    def _fuse_from(self, block: list[ast.stmt], end: int) -> None:
        """If a statement is the activation's call."""
        statement = block[end]
        act = self._child(getattr(statement, 'value', None))
        if act is None or not isinstance(act[1], ast.Name):
            return
        name = act[1].id
        if not isinstance(statement, ast.Return) and _assigned(statement) != name:
            return
        addend = _added(block[end - 1], name) if end else None
        found = self._start(block, end - (addend is not None), name)
        norm = self._child(getattr(block[found[0]], 'value', None)) if found else None
        if found is None or norm is None or (norm[0], act[0]) not in self.pairs:
            return
        value = self._call(norm[0], act[0], act[1], *([] if addend is None else [addend]))
        cast(ast.Assign, statement).value = ast.copy_location(value, statement)
        self._take(block, *found, *([] if addend is None else [end - 1]))


def _guarded(
    new: FunctionType, old: FunctionType, idle: Collection[tuple[str, object]]
) -> FunctionType:
    """The new function where what it takes for idle is, else the old one."""

    @functools.wraps(new)
    def method(self: nn.Module, *args, **kwargs):
        holds = all(_idle_value(self, name) == value for name, value in idle)
        return (new if holds else old)(self, *args, **kwargs)

    return cast(FunctionType, method)


def _gives(node: ast.expr, function: str) -> bool:
    """Whether an expression is ``FUNCTION(...)``, or a checkpoint's ``f(FUNCTION, ...)``."""
    if not isinstance(node, ast.Call):
        return False
    called = [node.func, *node.args[:1]]
    return any(isinstance(n, ast.Name) and n.id == function for n in called)


def _assigned(statement: ast.stmt) -> str | None:
    """NAME of ``NAME = ...``."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))


def _added(statement: ast.stmt, name: str) -> ast.expr | None:
    """x of ``NAME += x``, ``NAME = NAME + x`` or ``NAME = x + NAME``."""
    if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
        target: ast.expr = statement.target
        terms = [statement.value]
    elif _assigned(statement) and isinstance(getattr(statement, 'value', None), ast.BinOp):
        both = cast(ast.BinOp, cast(ast.Assign, statement).value)
        if not isinstance(both.op, ast.Add):
            return None
        target = cast(ast.Assign, statement).targets[0]
        terms = [t for t in (both.left, both.right) if not _mentions(t, name)]
        if not all(isinstance(t, ast.Name) for t in (both.left, both.right) if t not in terms):
            return None
    else:
        return None
    same = isinstance(target, ast.Name) and target.id == name
    return terms[0] if same and len(terms) == 1 and not _mentions(terms[0], name) else None


def _leaves_alone(statement: ast.stmt, name: str) -> bool:
    """Whether a statement goes on to the next, and has nothing to do with a variable."""
    leaves = (ast.Return, ast.Raise, ast.Break, ast.Continue, ast.FunctionDef, ast.Yield)
    return not any(isinstance(n, leaves) for n in ast.walk(statement)) and not _mentions(
        statement, name
    )


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
