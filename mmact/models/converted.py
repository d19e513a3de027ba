# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""``mmact.Converted``: a model of any codebase with learned activations, from a config alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from .. import conversion
from ..conversion import convert
from ..registry import MODELS


@MODELS.register_module()
def Converted(  # noqa: N802 - the name of a type in configs
    original: str,
    act_cfg: Mapping[str, Any],
    include: Iterable[str] | str | None = None,
    exclude: Iterable[str] | str | None = None,
    replaces: Iterable[str] | str | None = None,
    example: Any = None,
    sharing: str = 'site',
    min_size: int = 2,
    max_error: float | None = None,
    fuse: bool = False,
    **kwargs,
) -> nn.Module:
    """Builds a model, converts its activations and returns it; the report goes to the log.

    At any depth of a config: a whole model, a backbone, a neck, a head.

    Args:
        original: Type of the model, as the config had it.
        act_cfg: As of :func:`mmact.convert`, like all others but the last two.
        include: What to convert.
        exclude: What to leave as it is.
        replaces: Kinds of activations to replace.
        example: Shape of an image batch for the dry run, such as ``(1, 3, 640, 640)``.
        sharing: ``'site'`` or ``'module'``.
        min_size: Smallest feature map whose activation is replaced.
        max_error: Largest error of a start that is accepted.
        fuse: Whether BatchNorms and the activations behind them become one op (:func:`mmact.fuse`).
        **kwargs: Arguments of ``original``.

    Returns:
        The model itself, of the class of ``original``. Its parameters keep their names, so that
        ``init_cfg`` and ``load_from`` load checkpoints of the original.

    Raises:
        ValueError: As :func:`mmact.convert`, and if nothing was replaced.

    Example:
        >>> model = dict(type='mmact.Converted', original='RTMDet', act_cfg=dict(type='PWLU'))
    """
    with MODELS.switch_scope_and_registry(None) as registry:
        model = registry.build(dict(type=original, **kwargs))
    report = convert(
        model,
        act_cfg,
        include=include,
        exclude=exclude,
        replaces=replaces,
        example=example,
        sharing=sharing,
        min_size=min_size,
        max_error=max_error,
    )
    if not report.replaced:
        raise ValueError(f'mmact.Converted: nothing in {original} was replaced. {report}')
    print_log(f'mmact.Converted: {original}: {report}', 'current')
    if fuse:
        places = conversion.fuse(model)
        text = f'{places} places run BatchNorm and activation as one op'
        print_log(f'mmact.Converted: {text}', 'current')
    return model
