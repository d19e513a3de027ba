# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The calls of a norm and the activation behind it in a method's syntax tree, made one call."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import cast

#: The name under which a class has norm_act.
NORM_ACT = '_mmact_norm_act'


class FuseNorms(ast.NodeTransformer):
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
            for name in (NORM_ACT, norm, act)
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
        idle: list[int] = []
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
        both = [cast(ast.expr, last.value), addend]
        last.value = ast.copy_location(ast.Tuple(both, ast.Load()), last)

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
