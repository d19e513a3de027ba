# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The list of activations, and what each of them learns.

Nothing of it is written down twice: an activation layer is any of the package's classes, its
description the first line of its docstring, its paper and parameters are attributes of the class.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass

from torch import nn

from .base import Activation
from .standard import STANDARD


@dataclass(frozen=True)
class ActivationRecord:
    """The facts about an activation that matter before using it.

    Args:
        name: What a config says, ``act_cfg=dict(type=name)``.
        cls: Class of the layer. mmcv has its own for some of PyTorch's.
        paper: Authors, title, place and year; empty for what has no paper.
        num_parameters: Number of parameters that it learns with its default arguments.
        per: What has that many of its own: ``'layer'`` or ``'channel'``; where the number is
            neither constant nor proportional to the width, ``'layer of 64 channels'``. Empty if it
            learns nothing.
        description: One line.
    """

    name: str
    cls: type[nn.Module]
    paper: str
    num_parameters: int
    per: str
    description: str


def layers() -> dict[str, type[Activation]]:
    """mmact's own activation layers, by the names under which the package exports them."""
    package = sys.modules[__package__]
    return {
        name: value
        for name in sorted(package.__all__, key=str.lower)
        if isinstance(value := getattr(package, name), type)
        and issubclass(value, Activation)
        # The base classes have no forward.
        and value.forward is not nn.Module.forward
    }


def list_activations() -> list[ActivationRecord]:
    """Lists the activations that ``act_cfg`` can name once mmact is imported.

    The layers of mmact, and those of PyTorch that comparisons use. In plain PyTorch, ``record.cls``
    is the layer.

    Returns:
        A record for each name: mmact's own first, each part in alphabetical order.

    Example:
        >>> [record.name for record in list_activations() if record.num_parameters == 2]
        ['AReLU', 'ELSA']
    """
    own = [
        ActivationRecord(
            name, cls, f'{cls.paper} {cls.year}', *cls.parameter_count, _description(name, cls)
        )
        for name, cls in layers().items()
    ]
    standard = [
        ActivationRecord(name, s.cls, s.paper, *s.parameter_count, s.description)
        for name, s in sorted(STANDARD.items(), key=lambda item: item[0].lower())
    ]
    return own + standard


def _description(name: str, cls: type[nn.Module]) -> str:
    if name != cls.__name__:
        return f'Another name of `{cls.__name__}`'
    line = (inspect.getdoc(cls) or '').partition('\n')[0].rstrip('.')
    return re.sub(r':\w+:(?=`)', '', line).replace('``', '`')
