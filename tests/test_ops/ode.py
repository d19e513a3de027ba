# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""CPAB transformations by numerical integration: what the closed form is tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Field:
    """The velocity field of theta (N - 1,): piecewise affine on N equal cells of the domain.

    Args:
        theta: Velocities at the inner knots.
        domain: (a, b).
    """

    def __init__(self, theta: Tensor, domain: tuple[float, float]) -> None:
        a, b = domain
        self.cells = theta.numel() + 1
        self.knots = a + (b - a) * torch.arange(self.cells + 1, dtype=torch.float64) / self.cells
        self.velocity = F.pad(theta.double(), (1, 1))
        self.slope = self.velocity.diff() / self.knots.diff()

    def cell_of(self, x: Tensor) -> Tensor:
        """The cell that x is in; the right one of two at a knot."""
        cell = torch.searchsorted(self.knots, x.contiguous(), right=True) - 1
        return cell.clamp(0, self.cells - 1)

    def __call__(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Velocity at x, by the affine function of the cell."""
        cell = self.cell_of(x) if cell is None else cell
        return self.velocity[cell] + self.slope[cell] * (x - self.knots[cell])

    def flow(self, x: Tensor, steps: int = 160) -> Tensor:
        """The solution at time 1, by the classical Runge-Kutta method of order 4.

        A step that would leave its cell is shortened, by bisection, to end on the knot: within a
        cell the field is smooth, so the method keeps its order.
        """
        x, remaining = x.clone(), torch.ones_like(x)
        cell = self.cell_of(x)
        while (remaining > 0).any():
            speed = self(x, cell)
            cell = cell - ((x == self.knots[cell]) & (speed < 0) & (cell > 0)).long()
            last = cell == self.cells - 1
            cell = cell + ((x == self.knots[cell + 1]) & (speed > 0) & ~last).long()
            dt = remaining.clamp(max=1 / steps)
            y = self._step(x, cell, dt)
            low, high = self.knots[cell], self.knots[cell + 1]
            out = ((y < low) | (y > high)).nonzero()[:, 0]
            if len(out):
                xo, co, lo, ho = x[out], cell[out], low[out], high[out]
                target = torch.where(y[out] < lo, lo, ho)
                short, long = torch.zeros_like(xo), dt[out].clone()
                for _ in range(45):
                    middle = (short + long) / 2
                    z = self._step(xo, co, middle)
                    beyond = (z < lo) | (z > ho)
                    long = torch.where(beyond, middle, long)
                    short = torch.where(beyond, short, middle)
                dt[out], y[out] = long, target
            x, remaining = y, remaining - dt
            remaining = torch.where(remaining < 1e-15, 0, remaining)
        return x

    def _step(self, x: Tensor, cell: Tensor, dt: Tensor) -> Tensor:
        k1 = self(x, cell)
        k2 = self(x + dt / 2 * k1, cell)
        k3 = self(x + dt / 2 * k2, cell)
        k4 = self(x + dt * k3, cell)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
