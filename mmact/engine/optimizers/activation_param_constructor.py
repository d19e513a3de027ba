# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of their own for activation parameters."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.optim import Optimizer

from mmact.activations import Activation
from mmact.ops._arguments import number

# Marks the groups of activation parameters until all groups are known; not passed to the optimizer.
_MARK = 'activation'

# Marks, in the optimizer and its state dict, the groups whose learning rate is constant.
_CONSTANT = 'constant_lr'


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ActivationParamConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with groups of their own for activation parameters.

    Weight decay pulls a weight to zero, where it is simpler; the bounds, slopes and values of an
    activation function have no such origin. They get no decay unless asked, and a multiplier of the
    learning rate. Activation parameters are the direct parameters of
    :class:`mmact.activations.Activation` modules, except the weights of hyper functions (Dynamic
    ReLU's), which are weights; layers inside one, as FReLU's convolution and BatchNorm, are treated
    as any other convolution or BatchNorm.

    Three keys of ``paramwise_cfg`` are added to those of the base class:

    - ``activation_lr_mult`` (float, default 1): factor of the learning rate.
    - ``activation_decay_mult`` (float, default 0): factor of the weight decay.
    - ``activation_constant_lr`` (bool, default False): whether the learning rate of activation
      parameters stays what it is at the start, while the schedules of all others warm up and decay,
      as the PAU paper has it on CIFAR-10 (section A.4.1). Whatever a scheduler has set, each step
      of the optimizer begins by putting it back.

    The other keys go on working for the other parameters. ``bias_*``, ``norm_*``, ``flat_*`` and
    ``dwconv_decay_mult`` do not concern activation parameters. ``custom_keys`` do:

    - A key that matches the activation's own name or its parameter's (``'act2'``, ``'points'``)
      names the activation and wins: what it says replaces the two settings above.
    - A key that matches only modules around it (``'backbone'``) scales its learning rate on top of
      ``activation_lr_mult`` and passes on any other option, but does not make it decay.

    A parameter that several modules share (as the convolutions of RetinaNet's head with a BatchNorm
    per level do) is updated once per step: ``bypass_duplicate`` is on unless it is set to False.
    Parameters with the same options share one group, so that an optimizer handles them together;
    their order depends on the model alone, as a checkpoint's optimizer state needs.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper with the field ``optimizer``.
        paramwise_cfg: Parameter-wise options, see above.

    Raises:
        ValueError: If a multiplier is negative or not a number, or needs an ``lr`` or
            ``weight_decay`` that the optimizer's config does not give.
        TypeError: If ``activation_constant_lr`` is not a bool, or with it, when the optimizer is
            built, that is not a ``torch.optim.Optimizer``.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
        ...     constructor='ActivationParamConstructor',
        ...     paramwise_cfg=dict(activation_lr_mult=0.5))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # The base class makes no groups at all for an empty paramwise_cfg.
        defaults = {
            'activation_lr_mult': 1.0,
            'activation_decay_mult': 0.0,
            'activation_constant_lr': False,
            'bypass_duplicate': True,
        }
        super().__init__(optim_wrapper_cfg, {**defaults, **(paramwise_cfg or {})})
        for name, option, base in (
            ('activation_lr_mult', 'lr', self.base_lr),
            ('activation_decay_mult', 'weight_decay', self.base_wd),
        ):
            factor = number(type(self).__name__, name, self.paramwise_cfg[name], 0)
            if base is None and factor != defaults[name]:
                raise ValueError(
                    f'ActivationParamConstructor: {name}={factor} needs {option}=... in the '
                    "optimizer's config"
                )
        constant = self.paramwise_cfg['activation_constant_lr']
        if not isinstance(constant, bool):
            raise TypeError(
                f'ActivationParamConstructor: activation_constant_lr must be True or False, got '
                f'{constant!r}'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimizer of a model and its wrapper."""
        wrapper = super().__call__(model)
        if self.paramwise_cfg['activation_constant_lr']:
            if not isinstance(wrapper.optimizer, Optimizer):
                raise TypeError(
                    'ActivationParamConstructor: activation_constant_lr=True needs a '
                    f'torch.optim.Optimizer, got {type(wrapper.optimizer).__name__}'
                )
            wrapper.optimizer.register_step_pre_hook(_put_back)
        return wrapper

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Adds the parameters of a module and all below it to the list of parameter groups.

        Args:
            params: Parameter groups, modified in place.
            module: The module; its children are visited by recursion.
            prefix: Its path; empty for the model itself.
            is_dcn_module: Whether the module belongs to a deformable convolution.
        """
        if isinstance(module, Activation) and not module.hyper_function:
            self._add_activation(params, module, prefix)
            for name, child in module.named_children():
                self.add_params(params, child, prefix=f'{prefix}.{name}' if prefix else name)
        else:
            super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if not prefix:
            params[:] = _merged(params)

    def _add_activation(self, params: list[dict], module: Activation, prefix: str) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            group = {'params': [parameter]}
            duplicate = self.paramwise_cfg.get('bypass_duplicate') and self._is_in(group, params)
            if parameter.requires_grad and not duplicate:
                params.append({**group, **self._activation_options(prefix, name), _MARK: True})

    def _activation_options(self, prefix: str, name: str) -> dict[str, Any]:
        full_name = f'{prefix}.{name}' if prefix else name
        around = prefix.rpartition('.')[0]
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        matching = [key for key in custom_keys if key in full_name]
        # As in the base class, the longest key wins, the first in the alphabet among equals.
        matching.sort(key=lambda key: (key in around, -len(key), key))
        custom = dict(custom_keys[matching[0]]) if matching else {}
        named = bool(matching) and matching[0] not in around

        lr_mult = self.paramwise_cfg['activation_lr_mult']
        decay_mult = self.paramwise_cfg['activation_decay_mult']
        if named:
            lr_mult = custom.get('lr_mult', lr_mult)
            decay_mult = custom.get('decay_mult', decay_mult)
        else:
            lr_mult = lr_mult * custom.get('lr_mult', 1.0)
            for option in ('decay_mult', 'weight_decay'):
                custom.pop(option, None)
        options = {}
        if self.base_lr is not None:
            options['lr'] = self.base_lr * lr_mult
        if self.paramwise_cfg['activation_constant_lr']:
            options[_CONSTANT] = True
        # Some optimizers decay by default: no decay is always said.
        options['weight_decay'] = (self.base_wd or 0.0) * decay_mult
        return {**options, **custom}


def _put_back(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Sets the learning rates that are to be constant, before a step of the optimizer."""
    for group in optimizer.param_groups:
        if group.get(_CONSTANT):
            # Schedulers note it when they are built, after --auto-scale-lr has acted.
            group['lr'] = group.setdefault('initial_lr', group['lr'])


def _merged(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One group for each set of equal options, in the order in which they first appear."""
    merged: list[dict[str, Any]] = []
    for group in groups:
        options = {key: value for key, value in group.items() if key != 'params'}
        for other in merged:
            if options == {key: value for key, value in other.items() if key != 'params'}:
                other['params'] += group['params']
                break
        else:
            merged.append({**group, 'params': list(group['params'])})
    for group in merged:
        if group.pop(_MARK, False):
            print_log(
                f'ActivationParamConstructor: {len(group["params"])} activation parameters with '
                + ', '.join(f'{key}={value}' for key, value in group.items() if key != 'params'),
                logger='current',
                level=logging.INFO,
            )
    return merged
