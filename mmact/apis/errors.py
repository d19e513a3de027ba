# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""One-line errors for what is wrong in a config or on a command line.

Until training starts, an exception means a wrong config, so the user gets one line that says what to
change. The environment variable ``MMACT_TRACEBACK=1`` shows the traceback instead.
"""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.registry import Registry, root

_NOT_REGISTERED = re.compile(r'(\S+) is not in the (\S+)::([^.]+) registry')
_BAD_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


class UserError(Exception):
    """A wrong config or command line; the text says what to change."""


@contextmanager
def one_line_errors(cfg: dict | None = None) -> Iterator[None]:
    """Ends the program with one line on stderr and status 2 if the block raises.

    Args:
        cfg: The config in use, to name the keys that have to be changed.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get('MMACT_TRACEBACK', '0') != '0':
            raise
        print(f'error: {explain(error, cfg or {})}', file=sys.stderr)
        sys.exit(2)


def explain(error: Exception, cfg: dict) -> str:
    """Says in one line what is wrong and what to change.

    Args:
        error: What was raised while config, model, data sets or optimizer were built.
        cfg: The config in use.

    Returns:
        The text, without a line break.
    """
    text = str(error)
    if isinstance(error, UserError):
        return text
    if match := _NOT_REGISTERED.search(text):
        return _unknown_name(*match.groups(), cfg)
    if match := _BAD_ARGUMENT.search(text):
        return _unknown_argument(*match.groups())
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return missing_data(str(error.filename), cfg)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f'{type(error).__name__}: {" ".join(lines)} (MMACT_TRACEBACK=1 shows where)'


def missing_data(path: str, cfg: dict) -> str:
    """Says that a file or folder of a data set is missing, and which config keys lead to it.

    Args:
        path: What was looked for.
        cfg: The config in use.

    Returns:
        The text, without a line break.
    """
    roots = {v for k, v in _strings(cfg) if k.endswith('data_root') and v and path.startswith(v)}
    if not roots:
        keys = [k for k, v in _strings(cfg) if v == path]
        return f'{path} does not exist' + (f' (config key {" and ".join(keys)})' if keys else '')
    data_root = max(roots, key=len)
    # Not the test split: it repeats the validation split in most configs, and would double the line.
    options = ' '.join(
        f'{key}={os.path.join("DIR", value[len(data_root) :].lstrip("/"))}'
        for key, value in _strings({k: v for k, v in cfg.items() if k.startswith(('train', 'val'))})
        if value.startswith(data_root)
    )
    return (
        f'{path} does not exist. Put the data set there, or say where it is: '
        f'--cfg-options {options}; to try without it, tools/dataset_converters/make_mini.py '
        'draws a miniature data set of the same layout'
    )


def _strings(node: Any, path: str = '') -> Iterator[tuple[str, str]]:
    """(dotted key, value) of every string in a config, in the order of the config."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _strings(value, f'{path}.{index}')


def _registries() -> Iterator[Registry]:
    for registry in vars(root).values():
        if isinstance(registry, Registry):
            yield registry
            yield from registry.children.values()


def _unknown_name(name: str, scope: str, registry_name: str, cfg: dict) -> str:
    known = set()
    for registry in _registries():
        if registry.name == registry_name and registry.scope == scope:
            for family in (registry, registry.root):
                known.update(family.module_dict)
            for child in registry.root.children.values():
                if child is not registry:
                    known.update(f'{child.scope}.{other}' for other in child.module_dict)
    close = difflib.get_close_matches(name, known, n=3)
    where = [key for key, value in _strings(cfg) if value == name]
    return (
        f'{name!r} is not a known type' + (f' (config key {where[0]})' if where else '') + '. '
        + (f'Did you mean {" or ".join(close)}?' if close else
           'If it is your own, is its module in custom_imports?')
    )


def _unknown_argument(class_name: str, argument: str) -> str:
    names: dict[str, None] = {}
    for registry in _registries():
        for cls in registry.module_dict.values():
            if isinstance(cls, type) and cls.__name__ == class_name:
                for parent in cls.__mro__[:-1]:
                    if '__init__' in vars(parent):
                        names.update(dict.fromkeys(inspect.signature(parent.__init__).parameters))
    accepted = [name for name in names if name not in ('self', 'args', 'kwargs')]
    close = difflib.get_close_matches(argument, accepted, n=1)
    return (
        f'{class_name} has no argument {argument!r}.'
        + (f' Did you mean {close[0]}?' if close else '')
        + (f' It takes {", ".join(accepted)}.' if accepted else '')
    )
