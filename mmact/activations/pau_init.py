# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Initial coefficients of PAU: a table for the paper's degrees, and least squares for all others.

Paper: Molina, Schramowski, Kersting, Pade Activation Units: End-to-end Learning of Flexible
Activation Functions in Deep Networks, ICLR 2020, appendix A.1.

Two things in its Table 6 cannot be used with its Eq. 2 (measurements in docs/pau_coefficients.md):

- the columns of ReLU and of the leaky family are least-squares coefficients for the denominator
  1 + sum |b_k x^k| (version 'A' here), not for Eq. 2's 1 + |sum b_k x^k| (version 'B');
- b4 of the sigmoid is printed 1/10008; its Pade approximant has 1/1008.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor

from .functions import canonical_name, imported, named_function
from .pau_fit import CONSTANT, check_form, evaluate_fits, fit_pau

# fmt: off
#: Coefficients (a_0 .. a_5), (b_1 .. b_4) for degrees (5, 4) and version 'B' (Eq. 2). Sigmoid,
#: tanh and swish are Pade approximants at 0; the others minimise the squared error over [-3, 3], in
#: steps of 1e-6 (-0.5: 6e-6). For slopes 0 to 0.3 the minimum is (1 + slope) / 2 * x plus
#: (1 - slope) / 2 times one even approximation of abs(x).
INITIAL_COEFFICIENTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    'sigmoid': (
        (1 / 2, 1 / 4, 1 / 18, 1 / 144, 1 / 2016, 1 / 60480),
        (0.0, 1 / 9, 0.0, 1 / 1008),
    ),
    'tanh': ((0.0, 1.0, 0.0, 1 / 9, 0.0, 1 / 945), (0.0, 4 / 9, 0.0, 1 / 63)),
    'swish': ((0.0, 1 / 2, 1 / 4, 3 / 56, 1 / 168, 1 / 3360), (0.0, 3 / 28, 0.0, 1 / 1680)),
    'relu': (
        (0.03389713573031548, 0.5, 1.670146579608884,
         1.990123217677099, 0.9413242959562209, 0.15091680597982648),
        (0.0, 3.9802464353541436, 0.0, 0.3018336119596479),
    ),
    'leaky_relu_0.01': (
        (0.03355816437301257, 0.505, 1.6534451138127664,
         2.0100244498538196, 0.9319110529966298, 0.15242597403961936),
        (0.0, 3.9802464353541, 0.0, 0.30183361195964264),
    ),
    'leaky_relu_0.20': (
        (0.02711770858425195, 0.6, 1.3361172636871026,
         2.388147861212531, 0.7530594367649823, 0.181100167175794),
        (0.0, 3.9802464353542257, 0.0, 0.3018336119596571),
    ),
    'leaky_relu_0.25': (
        (0.025422851797736918, 0.625, 1.2526099347066304,
         2.4876540220962933, 0.7059932219671331, 0.1886460074747747),
        (0.0, 3.980246435354081, 0.0, 0.30183361195964087),
    ),
    'leaky_relu_0.30': (
        (0.023727995011220485, 0.65, 1.169102605726265,
         2.587160182980281, 0.6589270071693982, 0.1961918477737805),
        (0.0, 3.9802464353542226, 0.0, 0.30183361195965697),
    ),
    'leaky_relu_-0.5': (
        (0.02375775486717887, 1.6111357314586359, 29.125782669665664,
         21.354741907001653, 26.09019313862054, 1.7928803842414587),
        (35.72203181455484, 8.81612431840073, 33.756064644771165, 0.3500143337035084),
    ),
}
# fmt: on

_PADE = ('sigmoid', 'tanh', 'swish_1')


def initial_coefficients(
    init: str | Callable[[Tensor], Tensor] = 'leaky_relu_0.01',
    m: int = 5,
    n: int = 4,
    version: str = 'B',
    owner: str = 'PAU',
) -> tuple[Tensor, Tensor]:
    """Coefficients with which a PAU approximates a function on [-3, 3].

    :data:`INITIAL_COEFFICIENTS` where it holds the function for these degrees and version, else
    :func:`fit_pau`. What a fit does outside its interval is left to chance, and a network's inputs
    go there: if on [-10, 10] it departs from the function by more than 3 (the table's 'relu' does
    by 2.2), the fit on [-4, 4], [-5, 5], [-6, 6] or [-8, 8] is taken instead, the narrowest that
    does not. Where there is none, as with degrees that grow faster than the function, it is
    [-3, 3]. Fits are kept, by function, except those of closures and of objects such as modules.

    Args:
        init: A name of :func:`mmact.activations.functions.canonical_name`, or any elementwise
            function of a tensor.
        m: Degree of the numerator.
        n: Degree of the denominator.
        version: Form of the denominator, see :func:`fit_pau`.
        owner: Activation that asks, for messages.

    Returns:
        Numerator (m + 1,) and denominator (n,), with version 'C' (n + 1,): float64, on the CPU, new
        tensors in every call.

    Raises:
        ValueError: For an unknown name, and as :func:`fit_pau`.
        TypeError: If init is neither a name nor callable.
    """
    m, n = check_form(m, n, version, owner)
    if not callable(init):
        name = canonical_name(init, owner)
        # A function has one fit, whether it or its name is given: two would differ by rounding.
        init = imported(name) or name
    if callable(init):
        constant = isinstance(init, FunctionType | BuiltinFunctionType)
        if not constant or getattr(init, '__closure__', None):
            return _tame_fit(init, m, n, version)  # it may compute something else next time
    # The Pade approximants have even, positive denominators, on which |.| does nothing.
    elif (m, n) == (5, 4) and init in _TABLE and (version == 'B' or init in _PADE):
        above, below = _TABLE[init]
        if version == 'C':
            below = (1 - CONSTANT['C'], *below)
        numerator, denominator = (
            torch.tensor(c, dtype=torch.float64, device='cpu') for c in (above, below)
        )
        return numerator, denominator
    numerator, denominator = _fitted(init, m, n, version)
    return numerator.clone(), denominator.clone()


@lru_cache(maxsize=256)
def _fitted(init: str | Callable, m: int, n: int, version: str) -> tuple[Tensor, Tensor]:
    return _tame_fit(named_function(init), m, n, version)


def _tame_fit(
    function: Callable[[Tensor], Tensor], m: int, n: int, version: str
) -> tuple[Tensor, Tensor]:
    """The fit of :func:`initial_coefficients`."""
    first = fit = fit_pau(function, m, n, version)
    x = torch.linspace(-10, 10, 201, dtype=torch.float64, device='cpu')
    with torch.no_grad():
        y = function(x).to(x)
    if not y.isfinite().all():  # no function to stay close to
        return first
    for end in (4.0, 5.0, 6.0, 8.0, None):
        departure = evaluate_fits(torch.cat(fit)[None], m, x, version)[0] - y
        if departure.abs().max() <= 3:
            return fit
        if end is not None:
            fit = fit_pau(function, m, n, version, (-end, end))
    return first


_TABLE = {canonical_name(name): values for name, values in INITIAL_COEFFICIENTS.items()}
