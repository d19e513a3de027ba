# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PAU and RPAU as layers. Their values and gradients are in tests/test_ops/test_pau.py."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from mmact.activations import PAU, RPAU

X = torch.linspace(-3, 3, 601)


def test_starts_as_the_papers_leaky_relu():
    """Section 4: all experiments start from LeakyReLU, orders (5, 4), one PAU per layer."""
    act = PAU()
    assert act.rows('numerator').shape == (1, 6)
    assert act.rows('denominator').shape == (1, 4)
    assert sum(p.numel() for p in act.parameters()) == 10
    assert (act(X) - nn.functional.leaky_relu(X, 0.01)).abs().max() < 0.05


@pytest.mark.parametrize('version', ['A', 'B', 'C', 'N'])
@pytest.mark.parametrize(('m', 'n'), [(5, 4), (3, 2)])
def test_starts_near_the_function_it_is_told(m, n, version):
    act = PAU(m=m, n=n, init=torch.tanh, version=version)
    assert act.rows('denominator').shape == (1, n + (version == 'C'))
    assert (act(X) - X.tanh()).abs().max() < 0.05


def test_sets_of_coefficients():
    """One for the layer, one per channel, one per group of channels."""
    x = torch.randn(2, 12, 5, 5)
    single = PAU(init='swish')
    for num_groups in (1, 12, 4):
        act = PAU(init='swish', num_groups=num_groups)
        assert act.rows('numerator').shape == (num_groups, 6)
        assert torch.equal(act(x), single(x))
    with torch.no_grad():
        act.rows('numerator')[2] *= 2  # channels 6 to 8
    factor = torch.ones(12, 1, 1)
    factor[6:9] = 2
    assert torch.allclose(act(x), single(x) * factor)
    with pytest.raises(ValueError, match='PAU has a multiple of 4 channels .*10, 5, 5'):
        act(torch.randn(2, 10, 5, 5))


def test_channel_count_from_the_surroundings():
    image = nn.Sequential(nn.Conv2d(3, 8, 1), PAU(num_groups=None))
    tokens = nn.Sequential(nn.Linear(3, 8), PAU(num_groups=None))
    for model in (image, tokens):
        assert model[1].rows('numerator').shape == (8, 6)
    assert image(torch.randn(1, 3, 2, 2)).shape == (1, 8, 2, 2)
    assert tokens[1].channel_dim == -1
    assert tokens(torch.randn(1, 7, 3)).shape == (1, 7, 8)
    with pytest.raises(RuntimeError, match='PAU does not know its number of channels'):
        PAU(num_groups=None)(torch.randn(1, 8))


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(m=0), 'PAU: m must be an integer from 1 to 31, got 0'),
        (dict(n=2.0), 'PAU: n must be an integer from 1 to 31, got 2.0'),
        (dict(n=32), 'got 32'),
        (dict(num_channels=0), 'num_channels must be a positive integer'),
        (dict(init='relux'), 'relux'),
        (dict(version='D'), 'version'),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        PAU(**arguments)


def test_unusual_orders_are_errors_or_work_but_never_end_the_program():
    assert PAU(m=7, n=2, init='tanh')(X).isfinite().all()
    assert PAU(m=1, n=1, init='tanh')(X).isfinite().all()


def test_instances_are_not_kept_alive():
    act = PAU()
    ref = weakref.ref(act)
    del act
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_the_modules_dtype_is_respected(dtype):
    act = PAU().to(dtype)
    x = torch.randn(2, 3, 4, 4).to(dtype).to(memory_format=torch.channels_last)
    y = act(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert act(x.transpose(2, 3)).shape == x.shape


def test_learns_another_function():
    torch.manual_seed(0)
    act = PAU()
    optimizer = torch.optim.Adam(act.parameters(), lr=0.02)
    target = X.sin()
    first = nn.functional.mse_loss(act(X), target).item()
    for _ in range(500):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(act(X), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 100


# RPAU ---------------------------------------------------------------------------------------------


def test_noise_in_training_only():
    act = RPAU(alpha=0.1)
    plain = PAU()
    x = torch.randn(4, 3, 16, 16)
    act.eval()
    assert torch.equal(act(x), plain(x))
    act.train()
    y = act(x)
    assert not torch.equal(y, plain(x))
    assert (y - plain(x)).abs().max() < 1.5 * plain(x).abs().max()
    assert torch.equal(RPAU(alpha=0.0)(x), plain(x))


def test_noise_differs_between_elements_and_calls_and_follows_the_seed():
    act = RPAU(alpha=0.1)
    x = torch.full((1000,), 2.0)
    torch.manual_seed(1)
    first, second = act(x), act(x)
    torch.manual_seed(1)
    again = act(x)
    assert first.unique().numel() > 900
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_backward_sees_the_noise_of_its_forward():
    """Finite differences with the seed restored; a new draw in backward would spoil them."""
    act = RPAU(alpha=0.2).double()
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)

    def run(x, *parameters):
        torch.manual_seed(3)
        return act(x)

    assert torch.autograd.gradcheck(run, (x, *act.parameters()), eps=1e-7, atol=1e-5)


def test_mean_of_the_noise_is_the_function_itself():
    """Eq. 3 as printed adds noise of mean c to each c, and would double the coefficients."""
    act = RPAU(alpha=0.01, init='tanh')
    x = torch.full((200000,), 1.5)
    assert act(x).mean().item() == pytest.approx(torch.tensor(1.5).tanh().item(), abs=1e-3)


def test_state_is_that_of_pau():
    act = RPAU(alpha=0.3, m=3, n=2, init='tanh', num_groups=2)
    plain = PAU(m=3, n=2, init='relu', num_groups=2)
    plain.load_state_dict(act.state_dict())
    x = torch.randn(1, 2, 9)
    assert torch.equal(plain(x), copy.deepcopy(act).eval()(x))
    assert 'alpha=0.3' in repr(act)


@pytest.mark.parametrize('alpha', [-0.1, 1.5])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match=r'RPAU: alpha must be in \[0, 1\]'):
        RPAU(alpha=alpha)
