# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""One-line errors for what is wrong in a config or on a command line.

Until training starts, an exception means a wrong config, so the user gets one line that says what
to change. The environment variable ``MMACT_TRACEBACK=1`` shows the traceback instead.
"""

import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry, root

_NOT_REGISTERED = re.compile(r'(\S+) is not in the (\S+)::([^.]+) registry')
_MISSING_FILE = re.compile(r'file `(.+?)` ?does not exist')  # MMPose's data sets
_BAD_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


class UserError(Exception):
    """A wrong config or command line; the text says what to change."""


@contextmanager
def one_line_errors(cfg: Config | None = None) -> Iterator[None]:
    """Ends the program with one line on stderr and status 2 if the block raises.

    Args:
        cfg: The config in use, to name the keys that have to be changed.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get('MMACT_TRACEBACK', '0') != '0':
            raise
        print(f'error: {explain(error, cfg if cfg is not None else Config())}', file=sys.stderr)
        sys.exit(2)


def explain(error: Exception, cfg: Config) -> str:
    """Says in one line what is wrong and what to change.

    Args:
        error: What was raised while config, model, data sets or optimizer were built.
        cfg: The config in use.

    Returns:
        The text, without a line break.
    """
    # A KeyError's own text is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, UserError):
        return text
    if match := _NOT_REGISTERED.search(text):
        return _unknown_name(*match.groups(), cfg)
    if match := _BAD_ARGUMENT.search(text):
        return _unknown_argument(*match.groups(), error.__traceback__)
    if isinstance(error, AssertionError) and (match := _MISSING_FILE.search(text)):
        return missing_data(match[1], cfg)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return missing_data(str(error.filename), cfg)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f'{type(error).__name__}: {" ".join(lines)} (MMACT_TRACEBACK=1 shows where)'


def missing_data(path: str, cfg: Config) -> str:
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
    # Not the test split: in most configs it repeats the validation split.
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
    elif isinstance(node, (dict, Config)):
        for key, value in node.items():
            yield from _strings(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _strings(value, f'{path}.{index}')


def _unknown_name(name: str, scope: str, registry_name: str, cfg: Config) -> str:
    known: set[str] = set()
    for registry in vars(root).values():
        if isinstance(registry, Registry) and registry_name in _names_in_tree(registry):
            known.update(registry.module_dict)
            for child in registry.children.values():
                prefix = '' if child.scope == scope else f'{child.scope}.'
                known.update(prefix + other for other in child.module_dict)
    lower = {other.lower(): other for other in sorted(known)}
    close = [lower[other] for other in difflib.get_close_matches(name.lower(), lower, n=3)]
    where = next((f' (config key {key})' for key, value in _strings(cfg) if value == name), '')
    remedy = 'If it is your own, is its module in custom_imports?'
    if close:
        remedy = f'Did you mean {" or ".join(close)}?'
    return f'{name!r} is not a known type{where}. {remedy}'


def _names_in_tree(registry: Registry) -> set[str]:
    return {registry.name, *(child.name for child in registry.children.values())}


def _unknown_argument(class_name: str, argument: str, trace: TracebackType | None) -> str:
    accepted: list[str] = []
    # MMEngine's build_from_cfg holds the class whose arguments come from the config.
    for frame, _ in traceback.walk_tb(trace):
        cls = frame.f_locals.get('obj_cls')
        if isinstance(cls, type) and class_name in (parent.__name__ for parent in cls.__mro__):
            accepted = _arguments(cls)
    close = difflib.get_close_matches(argument, accepted, n=1)
    return (
        f'{class_name} has no argument {argument!r}.'
        + (f' Did you mean {close[0]}?' if close else '')
        + (f' It takes {", ".join(accepted)}.' if accepted else '')
    )


def _arguments(cls: type) -> list[str]:
    """Names of the constructor's arguments; those of a parent too where **kwargs passes them on."""
    names: dict[str, None] = {}
    for parent in cls.__mro__[:-1]:
        if '__init__' not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        names.update((p.name, None) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    names.pop('self')
    return list(names)
