# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tells MMEngine's FLOP counter, and the tools that use it, what mmact's ops cost."""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.analysis import complexity_analysis

from ..ops.flops import MADDS


def _handle(madds: Callable[..., int]) -> Callable[[Sequence[Any], Sequence[Any]], int]:
    """A formula as MMEngine asks it, with the values of a traced graph."""
    return lambda inputs, outputs: madds(*(_shape(value) for value in inputs))


def _shape(value: Any) -> Any:
    """Shape of a tensor in a traced graph, or the value of a constant."""
    return value.type().sizes() if value.isCompleteTensor() else value.toIValue()


# There is no public way: handles are set for one analysis at a time, by whoever makes it.
complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(
    {f'mmact::{name}': _handle(madds) for name, madds in MADDS.items()}
)
# Its counter of "activations" counts what convolutions and matrix products put out.
complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS.update(
    {f'mmact::{name}': lambda inputs, outputs: 0 for name in MADDS}
)
