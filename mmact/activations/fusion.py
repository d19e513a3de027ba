# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""BatchNorm, the sum of a residual block and an activation in one pass over memory."""

from __future__ import annotations

import functools
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import has_kernel
from ..ops._arguments import refuse
from ..ops._compat import is_compiling
from ..ops._transforms import use_reference
from ..ops.norm import Norm
from ..ops.sync_norm import shared_norm
from .base import Activation


def norm_act(norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Returns ``act(norm(x) + residual)``, in one op where there is one for it.

    Between norm and activation nothing is written or kept: a training keeps x and the result, as
    with BatchNorm and an in-place ReLU. The norm's buffers are updated as by calling it. Gradients
    differ from those of two calls by rounding.

    One op it is if ``norm`` is a BatchNorm or SyncBatchNorm of PyTorch, ``act`` is a layer of mmact
    whose op takes a norm, kernels for x's device are built, and nobody looks in between: no hooks
    on either, no tracing, no transform of torch.func. Under torch.compile the two are called, for
    the compiler to fuse. Second derivatives are those of the reference; there are none where a
    SyncBatchNorm takes statistics of several processes.

    Args:
        norm: A normalisation layer.
        act: An activation.
        x: (B, C, ...).
        residual: Added to the normalised x, of its shape. Without the op it is added in place to
            what ``norm`` returns.

    Raises:
        TypeError: If norm or act is not a module. What they refuse they say themselves.
    """
    if _in_one_op(norm, act, x, residual):
        return act(*_prepare(cast(_BatchNorm, norm), x, residual))
    for name, layer in (('norm', norm), ('act', act)):
        if not isinstance(layer, nn.Module):
            refuse('norm_act', name, 'a layer', layer, TypeError)
    z = norm(x)
    if residual is not None:
        z += residual
    return act(z)


def is_plain_norm(module: nn.Module | None) -> bool:
    """Whether a module is a BatchNorm that does what PyTorch's does."""
    forwards = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return isinstance(module, _BatchNorm) and type(module).forward in forwards


def _syncs(norm: _BatchNorm) -> bool:
    """Whether a norm takes its statistics from several processes."""
    if not (isinstance(norm, nn.SyncBatchNorm) and norm.training):
        return False
    started = dist.is_available() and dist.is_initialized()
    return started and dist.get_world_size(norm.process_group) > 1


def takes_norm(module: nn.Module | None) -> bool:
    """Whether a module is an activation whose op takes a norm."""
    return isinstance(module, Activation) and bool(module.elementwise_op)


@functools.cache
def _has_kernel(op: str, device_type: str) -> bool:
    # Meta tensors, for one, have a device whose dispatch key has another name.
    return device_type in ('cpu', 'cuda') and has_kernel(f'{op}_norm', device_type)


_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_GLOBAL_HOOKS = (
    nn_module._global_forward_hooks,
    nn_module._global_forward_pre_hooks,
    nn_module._global_backward_hooks,
    nn_module._global_backward_pre_hooks,
)


def _in_one_op(norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None) -> bool:
    if not is_plain_norm(norm) or not takes_norm(act):
        return False
    norm, act = cast(_BatchNorm, norm), cast(Activation, act)
    if not isinstance(x, Tensor):
        return False  # a proxy, while torch.fx traces
    if is_compiling() or torch.jit.is_tracing() or use_reference():
        return False
    if any(_GLOBAL_HOOKS) or any(getattr(m, h) for m in (norm, act) for h in _HOOKS):
        return False
    if not _has_kernel(act.elementwise_op, x.device.type):
        return False
    if getattr(act, 'num_groups', 1) != 1 and getattr(act, 'channel_dim', 1) not in (None, 1):
        return False
    if act.sees_input and (residual is not None or not norm.training):
        return False  # the norm does not tell what the input's statistics are
    if residual is not None:
        like = isinstance(residual, Tensor) and residual.shape == x.shape
        if not like or residual.dtype != x.dtype or residual.layout is not torch.strided:
            return False
    # What BatchNorm refuses it refuses itself, in its own words.
    if x.dim() < 2 or x.size(1) != norm.num_features:
        return False
    # The processes must decide alike, whatever the sizes of their inputs.
    return norm.affine if _syncs(norm) else x.numel() > x.size(1)


def _prepare(bn: _BatchNorm, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Norm]:
    """What a call of BatchNorm does besides normalising: statistics and buffers."""
    bn._check_input_dim(x)
    constant = not bn.training and bn.running_mean is not None and bn.running_var is not None
    if constant:
        mean, var = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
    else:
        momentum = bn.momentum or 0.0
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if bn.training and bn.track_running_stats:
            running = (bn.running_mean, bn.running_var)
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked.add_(1)
                if bn.momentum is None:
                    momentum = 1 / float(bn.num_batches_tracked)
        if _syncs(bn):
            group = cast(nn.SyncBatchNorm, bn).process_group
            return shared_norm(x, bn.weight, bn.bias, bn.eps, residual, group, *running, momentum)
        mean, var = torch.ops.mmact.batch_statistics(x.detach(), *running, momentum)
    return x, Norm(mean, var, bn.weight, bn.bias, bn.eps, residual, constant)
