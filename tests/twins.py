# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A network of OpenMMLab and mmact's with the same weights: whether both do the same."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def draw_norms(net: nn.Module) -> None:
    """Gives BatchNorms random statistics and weights, so that one left out would show."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def assert_same_step(
    theirs: nn.Module, ours: nn.Module, x: Tensor, training: bool, tolerance: float = 0.0
) -> None:
    """Outputs and statistics of one step are equal to the bit, and gradients within a tolerance."""
    results = []
    for net in (theirs, ours):
        net.to(x.dtype).train(training)
        image = x.clone().requires_grad_()
        outs = net(image)
        outs = outs if isinstance(outs, tuple) else (outs,)
        sum(out.square().sum() for out in outs).backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        results.append((outs, {**gradients, 'image': image.grad}, net.state_dict()))
    (outs, gradients, state), (our_outs, our_gradients, our_state) = results
    assert len(outs) == len(our_outs)
    assert all(torch.equal(a, b) for a, b in zip(outs, our_outs, strict=True))
    assert gradients.keys() == our_gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(our_gradients[name], value, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(value, our_state[name]) for name, value in state.items())


def assert_one_call_each(net: nn.Module, kind: type[nn.Module], x: Tensor) -> None:
    """Each activation of a kind is called once, with as many channels as it has functions."""
    calls = {name: 0 for name, module in net.named_modules() if isinstance(module, kind)}

    def count(name: str):
        def hook(module, inputs):
            calls[name] += 1
            assert inputs[0].shape[module.channel_dim] == module.num_channels, name

        return hook

    for name in calls:
        net.get_submodule(name).register_forward_pre_hook(count(name))
    net(x)
    assert set(calls.values()) == {1}
