# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Models whose BatchNorms and activations run as one op where one follows the other."""

from __future__ import annotations

import sys
from typing import Any, cast

from torch import Tensor, nn

from ..activations import norm_act
from ..activations.fusion import is_plain_norm, takes_norm
from ..ops._arguments import refuse
from .rewrite import NO_FUSION, Fusion, fusion_of, fusions, original_class, rewrite


def fuse(model: nn.Module) -> int:
    """Makes BatchNorms and the activations behind them one op, in place.

    See :func:`mmact.activations.norm_act`, which is called in their place: it decides at each call
    whether one op will do, and calls the two if not. Found are mmcv's ConvModule, nn.Sequential,
    and forwards that say ``x = self.bn(x)``, perhaps ``x += identity``, ``x = self.act(x)``.
    Modules, parameters and keys of the state dict stay; a module gets a subclass of its class.
    mmact's own ResNets have it already.

    Args:
        model: Any model with activations of mmact, for example after :func:`mmact.convert`.

    Returns:
        How many places there are.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        refuse('fuse', 'model', 'an nn.Module', model, TypeError)
    count = 0
    for module in list(model.modules()):
        fusion, places = _fusion_for(module)
        if places and fusion != fusion_of(module):
            rewrite(module, {}, fusion)
        count += places
    return count


def _fusion_for(module: nn.Module) -> tuple[Fusion, int]:
    cls: Any = original_class(module)
    if cls.forward is nn.Sequential.forward:
        children = list(cast(nn.Sequential, module))
        places = sum(map(_can_fuse, children, children[1:]))
        return Fusion(forward=_sequential_forward), places
    # Only where mmcv was imported can there be one of its modules.
    conv_module = getattr(sys.modules.get('mmcv.cnn'), 'ConvModule', None)
    if conv_module is not None and isinstance(module, conv_module):
        layer: Any = module
        fits = layer.order == ('conv', 'norm', 'act') and layer.with_norm and layer.with_activation
        if not fits or not _can_fuse(layer.norm, layer.activate):
            return NO_FUSION, 0
        if cls.forward is not conv_module.forward:
            return NO_FUSION, 0
        return Fusion(forward=_conv_module_forward), 1
    names = _names(module)
    norms = [name for name, child in names.items() if is_plain_norm(child)]
    acts = [name for name, child in names.items() if takes_norm(child)]
    if not norms or not acts:
        return NO_FUSION, 0
    return fusions(module, {(n, a) for n in norms for a in acts})


def _names(module: nn.Module) -> dict[str, nn.Module]:
    """Children, and the properties by which OpenMMLab's blocks call their norms."""
    names = dict(module.named_children())
    for name in dir(original_class(module)):
        if name.startswith('norm') and isinstance(getattr(type(module), name), property):
            try:
                value = getattr(module, name)
            except AttributeError:
                continue
            if isinstance(value, nn.Module):
                names[name] = value
    return names


def _can_fuse(norm: nn.Module, act: nn.Module) -> bool:
    return is_plain_norm(norm) and takes_norm(act)


def _sequential_forward(self: Any, input: Any) -> Any:  # noqa: A002 - PyTorch's name for it
    children = list(self)
    i = 0
    while i < len(children):
        if i + 1 < len(children) and _can_fuse(children[i], children[i + 1]):
            input = norm_act(children[i], children[i + 1], input)
            i += 2
        else:
            input = children[i](input)
            i += 1
    return input


def _conv_module_forward(self: Any, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
    cls: Any = original_class(self)
    forward = cls.forward
    # mmcv's own fusion of convolution and norm in evaluation needs both.
    with_conv = getattr(self, 'efficient_conv_bn_eval_forward', None) and not self.norm.training
    if not activate or not norm or with_conv:
        return forward(self, x, activate, norm)
    return norm_act(self.norm, self.activate, forward(self, x, activate=False, norm=False))
