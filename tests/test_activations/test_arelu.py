# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""AReLU and ELSA as layers. Their values and gradients are in tests/test_ops/test_arelu.py."""

import math

import pytest
import torch
from test_ops.utils import HALF_LAYERS
from torch import nn

from mmact.activations import ELSA, AReLU


def test_defaults_are_the_papers():
    """Section 4.1: alpha = 0.9, beta = 2.0."""
    x = torch.tensor([-1.0, 1.0])
    s = 1 / (1 + math.exp(-2.0))
    assert AReLU()(x).tolist() == pytest.approx([-0.9, 1 + s])
    assert ELSA()(x).tolist() == pytest.approx([-0.9, s])
    for act in (AReLU(), ELSA()):
        assert {n: p.item() for n, p in act.named_parameters()} == pytest.approx(
            dict(alpha=0.9, beta=2.0)
        )


def test_arelu_is_relu_plus_elsa():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = AReLU(alpha=0.3, beta=-1.0)(x)
    assert torch.allclose(together, x.relu() + ELSA(alpha=0.3, beta=-1.0)(x), atol=1e-6)


@pytest.mark.parametrize('cls', [AReLU, ELSA])
@pytest.mark.parametrize('alpha', [1.2, 0.0, -0.5, math.nan])
def test_an_alpha_that_could_never_learn_is_refused(cls, alpha):
    with pytest.raises(ValueError, match=rf'{cls.__name__}: alpha must be in \[0.01, 0.99\]'):
        cls(alpha=alpha)


def test_a_beta_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match='beta must be a finite number, got inf'):
        AReLU(beta=math.inf)


def test_the_ends_of_the_clamp_learn():
    for alpha in (0.01, 0.99):
        act = AReLU(alpha=alpha).double()
        act(torch.tensor([-2.0], dtype=torch.float64)).sum().backward()
        # 0.01 and 0.99 are not exact in float32, nor need they be on the inner side of the clamp.
        assert act.alpha.grad is not None


def test_learns_the_slopes_of_a_leaky_function():
    torch.manual_seed(0)
    act = AReLU()
    optimizer = torch.optim.Adam(act.parameters(), lr=0.05)
    x = torch.randn(512)
    target = torch.where(x < 0, 0.25 * x, 1.5 * x)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(act(x), target).backward()
        optimizer.step()
    assert act.alpha.item() == pytest.approx(0.25, abs=1e-3)
    assert 1 + act.beta.sigmoid().item() == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize('dtype', HALF_LAYERS, ids=str)
def test_autocast_keeps_parameters_in_float32(dtype):
    act = AReLU()
    with torch.autocast('cpu', dtype=dtype):
        y = act(torch.randn(2, 3, 4, 4).to(dtype))
    assert y.dtype == dtype
    y.float().sum().backward()
    assert act.alpha.grad.dtype == torch.float32
