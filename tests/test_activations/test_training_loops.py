# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What training loops do with every activation: accumulation, recomputing, EMA, SyncBN."""

import copy

import pytest
import torch
from test_ops.utils import TORCH, error, random_tensor
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmact
from mmact.activations import Activation

OWN = {r.name: r.cls for r in mmact.list_activations() if issubclass(r.cls, Activation)}
own = pytest.mark.parametrize('name', OWN)


def network(name, norm=nn.BatchNorm2d):
    """A convolution, a norm and the activation, with parameters that are not the initial ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), OWN[name]()).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


# RPAU's noise depends on an element's place in the batch, FReLU's BatchNorm on the batch.
@pytest.mark.parametrize('name', [n for n in OWN if n not in ('RPAU', 'FReLU')])
def test_accumulated_gradients_are_those_of_the_whole_batch(name):
    model = network(name)
    model[1].eval()  # a BatchNorm sees its share alone
    x = random_tensor((6, 3, 7, 6))
    expected = gradients(model, model(x).square().mean())
    model.zero_grad()
    for share in x.chunk(3):
        (model(share).square().mean() / 3).backward()
    for p, g in zip(model.parameters(), expected, strict=True):
        # Sums in another order; measured at most 2e-15 of the largest gradient.
        assert error(p.grad, g) <= 1e-13


@own
def test_recomputing_in_backward_changes_no_bit(name):
    """with_cp of OpenMMLab's backbones; the noise of RPAU is drawn again as it was."""
    x = random_tensor((2, 3, 7, 6))
    results = []
    for recompute in (False, True):
        model, given = network(name), x.clone().requires_grad_()
        torch.manual_seed(5)
        y = checkpoint(model, given, use_reentrant=False) if recompute else model(given)
        results.append((y, *gradients(model, y.square().mean()), given.grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def ema_of_torch(model, decay):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
    averaged.update_parameters(model)  # the first takes what is there
    return averaged.module, averaged.update_parameters


def ema_of_timm(model, decay):
    averaged = pytest.importorskip('timm.utils').ModelEmaV3(model, decay=decay)
    return averaged.module, averaged.update


@pytest.mark.skipif(TORCH < (2, 2), reason='multi_avg_fn came with torch 2.2')
@pytest.mark.parametrize('kind', [ema_of_torch, ema_of_timm])
@own
def test_averages_of_weights(name, kind):
    """They are those of the formula, entry by entry, and so is the function that they make."""
    model = network(name)
    averaged, update = kind(model, 0.9)
    expected = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.add_(0.05 * torch.randn_like(p))
                expected[n].lerp_(p, 1 - 0.9)
        update(model)
    found = dict(averaged.named_parameters())
    assert found.keys() == expected.keys()
    for n, p in expected.items():
        assert error(found[n], p) <= 1e-15
    by_hand = copy.deepcopy(model)
    by_hand.load_state_dict({**averaged.state_dict(), **expected})
    x = random_tensor((2, 3, 7, 6))
    assert error(averaged.eval()(x), by_hand.eval()(x)) <= 1e-13
    assert error(averaged(x), model.eval()(x)) > 1e-6 or not list(OWN[name]().parameters())


@own
def test_synchronised_batch_norm(name):
    """Channels are found beside it, conversion keeps the activation, one process learns alike."""
    one, other = network(name), network(name, nn.SyncBatchNorm)
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]
    other.load_state_dict(one.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(one))
    assert type(converted[2]) is OWN[name]
    assert converted.state_dict().keys() == one.state_dict().keys()
    x, results = random_tensor((2, 3, 7, 6)), []
    for model in (one, other, converted):
        torch.manual_seed(5)
        y = model(x)
        results.append((y, *gradients(model, y.square().mean()), *model.buffers()))
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
