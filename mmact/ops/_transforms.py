# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""When an op's differentiable reference takes the place of its kernel, and how.

Kernels have one derivative, that of reverse mode. Where PyTorch asks for another (forward mode, a
transform of torch.func, a second derivative), the reference answers, at the price of its own
speed and memory: every intermediate result of the formula is a tensor of x's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.onnx import is_in_onnx_export

from ._compat import transforms_active


def transforming() -> bool:
    """Whether a transform of torch.func or a level of forward-mode differentiation is active."""
    return forward_ad._current_level >= 0 or transforms_active()


def use_reference() -> bool:
    """Whether the public form of an op has to be made of PyTorch's operations."""
    return transforming() or is_in_onnx_export()


def gradients(function: Callable, inputs: Sequence[Tensor | None], grad: Tensor) -> list:
    """Gradients that can be differentiated again, for the backward of an op.

    Args:
        function: The op's reference, of the inputs.
        inputs: What was saved for backward, connected to its graph.
        grad: Gradient of the result.

    Returns:
        A gradient for each input, None where it needs none.
    """
    with torch.enable_grad():
        # Aliases: one input may be made of another, whose gradient must not pass through it here.
        own = [t if t is None else t.view_as(t) for t in inputs]
        wanted = [t for t in own if t is not None and t.requires_grad]
        found = torch.autograd.grad(
            function(*own), wanted, grad, create_graph=True, allow_unused=True
        )
    by_id = {id(t): g for t, g in zip(wanted, found, strict=True)}
    return [by_id.get(id(t)) for t in own]
