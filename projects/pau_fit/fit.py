# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Fits the coefficients of a PAU to a function, or checks the paper's table of coefficients."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmact.activations.pau_fit import VERSIONS, fit_pau
from mmact.activations.pau_init import (
    canonical_name,
    initial_coefficients,
    named_function,
)
from mmact.ops.reference import pau

#: Table 6 of the PAU paper as printed: a_0 to a_5 and b_1 to b_4; swish with its b = 1.
TABLE6 = {
    'sigmoid': ((1 / 2, 1 / 4, 1 / 18, 1 / 144, 1 / 2016, 1 / 60480), (0, 1 / 9, 0, 1 / 10008)),
    'tanh': ((0, 1, 0, 1 / 9, 0, 1 / 945), (0, 4 / 9, 0, 1 / 63)),
    'swish': ((0, 1 / 2, 1 / 4, 3 / 56, 1 / 168, 1 / 3360), (0, 3 / 28, 0, 1 / 1680)),
    'relu': (
        (0.02996348, 0.61690165, 2.37539147, 3.06608078, 1.52474449, 0.25281987),
        (1.19160814, 4.40811795, 0.91111034, 0.34885983),
    ),
    'leaky_relu_0.01': (
        (0.02979246, 0.61837738, 2.32335207, 3.05202660, 1.48548002, 0.25103717),
        (1.14201226, 4.39322834, 0.87154450, 0.34720652),
    ),
    'leaky_relu_0.20': (
        (0.02557776, 0.66182815, 1.58182975, 2.94478759, 0.95287794, 0.23319681),
        (0.50962605, 4.18376890, 0.37832090, 0.32407314),
    ),
    'leaky_relu_0.25': (
        (0.02423485, 0.67709718, 1.43858363, 2.95497990, 0.85679722, 0.23229612),
        (0.41014746, 4.14691964, 0.30292546, 0.32002850),
    ),
    'leaky_relu_0.30': (
        (0.02282366, 0.69358438, 1.30847432, 2.97681599, 0.77165297, 0.23252265),
        (0.32849543, 4.11557902, 0.24155603, 0.31659365),
    ),
    'leaky_relu_-0.5': (
        (0.02650441, 0.80772912, 13.56611639, 7.00217900, 11.61477781, 0.68720375),
        (13.70648993, 6.07781733, 12.32535229, 0.54006880),
    ),
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Fit the coefficients of a PAU (least squares) and draw the result.'
    )
    parser.add_argument(
        'function',
        nargs='?',
        help="a name ('gelu', 'leaky_relu_0.1', 'swish_1.5'), MODULE:CALLABLE, or an expression in "
        "x with torch, F and math, such as 'x * torch.sigmoid(1.7 * x)'; it is run as Python",
    )
    parser.add_argument('--m', type=int, default=5, help='degree of the numerator (default: 5)')
    parser.add_argument('--n', type=int, default=4, help='degree of the denominator (default: 4)')
    parser.add_argument(
        '--version', default='B', choices=VERSIONS, help="denominator (default: B, the paper's)"
    )
    parser.add_argument(
        '--interval', type=float, nargs=2, default=(-3.0, 3.0), metavar=('LEFT', 'RIGHT')
    )
    parser.add_argument(
        '--num-points', type=int, default=1001, help='points of the grid (default: 1001)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('fit_pau.png'), help='picture (default: fit_pau.png)'
    )
    parser.add_argument(
        '--table6',
        action='store_true',
        help="check the paper's Table 6 instead, and print the tables of docs/pau_coefficients.md",
    )
    args = parser.parse_args(arguments)
    if args.table6 == (args.function is not None):
        parser.error('give either a function or --table6')
    return args


def main(arguments: list[str] | None = None) -> None:
    """Fits and draws, with one-line errors for mistakes."""
    args = parse_args(arguments)
    if args.table6:
        print_table6(args.num_points)
        return
    try:
        function = parse_function(args.function)
        interval = tuple(args.interval)
        fit = fit_pau(function, args.m, args.n, args.version, interval, args.num_points)
    except (ValueError, TypeError) as error:
        sys.exit(f'error: {error}')
    for name, coefficients in zip(('numerator', 'denominator'), fit, strict=True):
        print(f'{name}: {coefficients.tolist()}')
    x = torch.linspace(*interval, 60001, dtype=torch.float64)
    print(
        'on [{:g}, {:g}]: {}'.format(*interval, describe(error_of(fit, function, x, args.version)))
    )
    wide = torch.tensor([-10.0, 10.0], dtype=torch.float64)
    values = evaluate(fit, wide, args.version)
    for end, value, target in zip(wide, values, function(wide), strict=True):
        print(f'at {end:+g}: {value:.4g} (function: {target:.4g})')
    draw(args, fit, function)
    print(args.out)


def parse_function(text: str) -> Callable[[Tensor], Tensor]:
    """The function that the command line names.

    Raises:
        ValueError: If it is neither a known name, nor MODULE:CALLABLE, nor an expression in x.
    """
    try:
        return named_function(text)
    except ValueError as unknown:
        error = unknown
    module, _, name = text.partition(':')
    if name.isidentifier() and module.replace('.', '_').isidentifier():
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as wrong:
            raise ValueError(f'{text}: {wrong}') from wrong
    if text.isidentifier() and text != 'x':
        raise error

    def function(x: Tensor) -> Tensor:
        return eval(text, {'torch': torch, 'F': F, 'math': math, 'x': x})

    try:
        function(torch.ones(1, dtype=torch.float64))
    except Exception as wrong:
        raise ValueError(f'{text!r}: {wrong}; {error}') from wrong
    return function


def evaluate(fit: tuple[Tensor, Tensor], x: Tensor, version: str = 'B') -> Tensor:
    """The PAU with these coefficients at x, in float64."""
    numerator, denominator = (torch.as_tensor(c, dtype=torch.float64)[None] for c in fit)
    return pau(x, numerator, denominator, 0, version)


def error_of(
    fit: tuple[Tensor, Tensor], function: Callable[[Tensor], Tensor], x: Tensor, version: str = 'B'
) -> Tensor:
    """Rows x and PAU - function, (2, N)."""
    return torch.stack([x, evaluate(fit, x, version) - function(x)])


def describe(errors: Tensor) -> str:
    """Maximum, where it lies, and root mean square of the rows of :func:`error_of`."""
    x, error = errors
    worst = int(error.abs().argmax())
    return (
        f'max {error[worst].abs():.3g} at x = {round(float(x[worst]), 4) + 0.0:g}, '
        f'RMS {error.square().mean().sqrt():.3g}'
    )


def print_table6(num_points: int) -> None:
    """Prints the tables of docs/pau_coefficients.md: every column of Table 6, and what we ship."""
    x = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    ends = torch.tensor([-10.0, 10.0], dtype=torch.float64)
    print(
        '| column | printed, as Eq. 2 (B) | printed, as version A | shipped (B) | at -10 and 10 |'
    )
    print('|---|---|---|---|---|')
    for name, printed in TABLE6.items():
        function = named_function(name)
        shipped = initial_coefficients(name)
        cells = [
            describe(error_of(fit, function, x, version))
            for fit, version in ((printed, 'B'), (printed, 'A'), (shipped, 'B'))
        ]
        far = ', '.join(
            f'{value:.2f} ({target:.2f})'
            for value, target in zip(evaluate(shipped, ends), function(ends), strict=True)
        )
        print(f'| {name} | {" | ".join(cells)} | {far} |', flush=True)
    print(f'\nLeast squares with version A on {num_points} points:\n')
    print('| column | a_0 ... a_5 | b_1 ... b_4 | RMS here | RMS printed | printed differs by |')
    print('|---|---|---|---|---|---|')
    x = torch.linspace(-3, 3, num_points, dtype=torch.float64)
    for name, printed in TABLE6.items():
        if 'relu' not in name:
            continue
        function = named_function(name)
        fit = fit_pau(function, 5, 4, 'A', num_points=num_points)
        rms = [error_of(f, function, x, 'A')[1].square().mean().sqrt() for f in (fit, printed)]
        found, old = torch.cat(fit), torch.tensor(printed[0] + printed[1], dtype=torch.float64)
        lists = (', '.join(f'{c:.8f}' for c in part.tolist()) for part in fit)
        print(
            f'| {name} | {" | ".join(lists)} | {rms[0]:.8f} | {rms[1]:.8f} '
            f'| {((old - found) / found).abs().max():.1e} |',
            flush=True,
        )


def draw(
    args: argparse.Namespace, fit: tuple[Tensor, Tensor], function: Callable[[Tensor], Tensor]
) -> None:
    """Draws function, PAU and error, on the interval and around it."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    left, right = args.interval
    width = right - left
    wide = torch.linspace(left - width, right + width, 3001, dtype=torch.float64)
    near = torch.linspace(left, right, 3001, dtype=torch.float64)
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7, 7), height_ratios=(2, 1), layout='constrained'
    )
    try:
        label = canonical_name(args.function)
    except ValueError:
        label = args.function
    top.axvspan(left, right, color='0.93', label='interval of the fit')
    top.plot(wide, function(wide), 'k--', lw=1, label=label)
    top.plot(wide, evaluate(fit, wide, args.version), label=f'PAU ({args.m}, {args.n})')
    low, high = (float(f(function(wide))) for f in (torch.min, torch.max))
    if math.isfinite(low) and math.isfinite(high):  # poles outside would flatten everything
        margin = max(high - low, 1e-3) / 2
        top.set_ylim(low - margin, high + margin)
    top.set(title=f'Version {args.version}', xlabel='x', ylabel='y')
    top.legend()
    bottom.plot(near, error_of(fit, function, near, args.version)[1])
    bottom.axhline(0, color='0.6', lw=0.8)
    bottom.set(xlabel='x', ylabel='PAU - function')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    main()
