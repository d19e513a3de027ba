# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The activations that can be drawn, and their evaluation channel by channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmact.activations import PWLU, Activation, ChannelActivation
from mmact.activations.base import functions_of
from mmact.ops._arguments import module as checked_module
from mmact.ops._arguments import one_of

#: What is asked of the caller: a model, or modules by name.
Modules = nn.Module | Mapping[str, nn.Module]


def scalar_activations(model: Modules) -> dict[str, nn.Module]:
    """Finds the activations that are functions of one number, and so can be drawn as a curve.

    Args:
        model: A model, of which all :class:`mmact.activations.Activation` layers
            are taken whose class says ``elementwise = True``. A mapping of names to modules, of any
            class, is returned as it is.

    Returns:
        Modules by their path in the model.

    Raises:
        TypeError: If model is neither a module nor a mapping of modules.
    """
    if isinstance(model, Mapping):
        return {name: checked_module('scalar_activations', m) for name, m in model.items()}
    checked_module('scalar_activations', model)
    return {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, Activation) and layer.elementwise and getattr(layer, 'resolved', True)
    }


def activations_from_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Rebuilds the learned activations of a checkpoint without its model.

    Args:
        state_dict: Parameters and buffers of a whole model.

    Returns:
        PWLU layers in evaluation mode, by their path in the model; empty if there are none.
    """
    one_of('activations_from_state_dict', 'state_dict', state_dict, Mapping, 'a state dict')
    layers: dict[str, nn.Module] = {}
    for key, points in state_dict.items():
        prefix, _, name = key.rpartition('.')
        start = f'{prefix}.' if prefix else ''
        if name != 'points' or f'{start}left_bound' not in state_dict:
            continue
        functions = state_dict[f'{start}left_bound'].numel()
        layer = PWLU(num_intervals=points.numel() // functions - 1, num_groups=functions)
        own = {k: state_dict[start + k] for k in layer.state_dict() if start + k in state_dict}
        layer.load_state_dict(own, strict=False)
        layers[prefix] = layer.eval()
    return layers


def channel_count(module: nn.Module) -> int:
    """Number of different functions in a module: 1 where all channels share one."""
    return functions_of(module)[1]


def channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """Sorts an input of the module by the function that acts on it.

    Returns:
        A view of x, (number of functions, channels of each, ...); (1, ...) where all channels share
        one function.
    """
    count = channel_count(module)
    if count == 1:
        return x.unsqueeze(0)
    dim = getattr(module, 'channel_dim', None)
    return x.movedim(1 if dim is None else dim, 0).unflatten(0, (count, -1))


def evaluate(module: nn.Module, x: Tensor) -> Tensor:
    """Evaluates the module's function of each channel.

    Works on a copy in evaluation mode, in float64 on the CPU: the module itself is not touched.

    Args:
        module: A scalar activation with C functions.
        x: Points of each function, (C, G).

    Returns:
        Values, (C, G), float64.
    """
    module = functions_of(module)[0].to('cpu', torch.float64).eval()
    if isinstance(module, ChannelActivation):
        module.channel_dim = 1
    with torch.no_grad():
        return module(x.detach().to('cpu', torch.float64).unsqueeze(0)).squeeze(0)
