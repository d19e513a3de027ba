# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of the ops, for the counters of PyTorch and MMEngine.

For each element a multiply-add, a division, an exponential, a logarithm and Phi count one each;
comparisons, the search for an element's segment and the tables per channel count none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import flop_counter

Shape = Sequence[int]


def _one(x: Shape, *rest: Any) -> int:
    """PWLU's section 4.3: a slope and an offset."""
    return math.prod(x)


def _pau(
    x: Shape,
    numerator: Shape,
    denominator: Shape,
    seed: Shape | None,
    noise: float,
    version: str,
    channel_dim: int,
) -> int:
    """Horner's rule twice, and the division; of a polynomial, once."""
    n = denominator[-1] - (version == 'C')
    return math.prod(x) * (numerator[-1] - 1 + n + (n > 0))


def _dyrelu(x: Shape, coefficients: Shape, attention: Shape | None, *rest: Any) -> int:
    """K linear functions, and the product with the pixel's attention."""
    return math.prod(x) * (coefficients[1] // 2 + (attention is not None))


def _dyrelu_squeeze(x: Shape, weight: Shape | None, *rest: Any) -> int:
    """The 1x1 convolution to one channel; averages are no products."""
    return math.prod(x) * (weight is not None)


def _cpab(
    x: Shape, breakpoints: Shape, table: Shape, channel_dim: int, factor: str, slope: float
) -> int:
    """14 for the closed form, as projects/counts/ditac.md has them; the factor and its product."""
    return math.prod(x) * (14 + {'one': 0, 'leaky': 1}.get(factor, 2))


def _acon(x: Shape, *rest: Any) -> int:
    """Three products, an exponential and a division."""
    return 5 * math.prod(x)


def _xielu(x: Shape, *rest: Any) -> int:
    """An exponential and two products; above 0 two products."""
    return 3 * math.prod(x)


#: Multiply-adds of each op, from the shapes of its tensors and its other arguments. Backward counts
#: twice, as PyTorch counts that of a convolution.
MADDS: dict[str, Callable[..., int]] = {
    'acon': _acon,
    'pwlu': _one,
    'arelu': _one,
    'piecewise_linear': _one,
    'pau': _pau,
    'dyrelu': _dyrelu,
    'dyrelu_squeeze': _dyrelu_squeeze,
    'cpab': _cpab,
    'cpab_table': lambda *args: 0,
    'xielu': _xielu,
    'acon_bwd': lambda grad, *args: 2 * _acon(*args),
    'pwlu_bwd': lambda grad, *args: 2 * _one(*args),
    'arelu_bwd': lambda grad, *args: 2 * _one(*args),
    'piecewise_linear_bwd': lambda grad, *args: 2 * _one(*args),
    'pau_bwd': lambda grad, *args: 2 * _pau(*args),
    'dyrelu_bwd': lambda grad, *args: 2 * _dyrelu(*args),
    'dyrelu_squeeze_bwd_': lambda grad_x, x, grad_mean, grad_logits, weight, channel_dim: (
        2 * _dyrelu_squeeze(grad_x, weight)
    ),
    'cpab_bwd': lambda grad, *args: 2 * _cpab(*args),
    'cpab_table_bwd': lambda *args: 0,
    'xielu_bwd': lambda grad, *args: 2 * _xielu(*args),
    'batch_statistics': lambda *args: 0,
    'add_centered_': lambda *args: 0,
}


def _behind_norm(madds: Callable[..., int]) -> Callable[..., int]:
    """The op's own; PyTorch's counter counts none for a BatchNorm."""
    return lambda x, *args: madds(x, *args[5:-2])


for _name in ('acon', 'arelu', 'cpab', 'pau', 'piecewise_linear', 'pwlu', 'xielu'):
    _madds = _behind_norm(MADDS[_name])
    MADDS[f'{_name}_norm'] = _madds
    MADDS[f'{_name}_norm_bwd'] = lambda grad, *args, _madds=_madds: 2 * _madds(*args)


def _operations(madds: Callable[..., int]) -> Callable[..., int]:
    """PyTorch counts two operations for each multiply-add."""
    return lambda *args, out_shape=None, **kwargs: 2 * madds(*args, **kwargs)


# Before torch 2.2 there is no such function, and counters are told by custom_mapping.
if hasattr(flop_counter, 'register_flop_formula'):
    for _name, _madds in MADDS.items():
        flop_counter.register_flop_formula(getattr(torch.ops.mmact, _name))(_operations(_madds))
