# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Forward mode, torch.func and second derivatives of every activation."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from marks import every_second
from test_ops.utils import assert_near
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

import mmact
from mmact.activations import Activation, ChannelActivation

RECORDS = {r.name: r for r in mmact.list_activations() if issubclass(r.cls, Activation)}
CHANNELS = 8  # GroupRational has 8 groups
# Made of PyTorch's operations alone.
PLAIN = ('FReLU', 'Maxout', 'PDELU', 'Squareplus')
every = pytest.mark.parametrize('name', [*RECORDS, 'PWLU collect', 'PWLU fixed', 'RPAU training'])


def build(name):
    """A layer in float64 and evaluation whose parameters are moved off their special values."""
    name, _, phase = name.partition(' ')
    torch.manual_seed(0)
    act = RECORDS[name].cls()
    if isinstance(act, ChannelActivation) and not act.resolved:
        act = RECORDS[name].cls(num_channels=CHANNELS)
    act.double().eval()
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.05 * torch.randn_like(p))
    if phase == 'collect':
        act.start_collecting()
    elif phase == 'fixed':
        act.freeze()
    return act.train(phase == 'training')


def inputs(shape=(3, CHANNELS, 2, 3), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def called(act):
    """The layer as a function of its parameters and x; noise is the same in every call."""

    def function(parameters, x):
        torch.manual_seed(3)
        return functional_call(act, parameters, (x,))

    return function, {n: p.detach() for n, p in act.named_parameters()}


def directions(parameters, x):
    generator = torch.Generator().manual_seed(5)
    return (
        {
            n: torch.randn(p.shape, dtype=p.dtype, generator=generator)
            for n, p in parameters.items()
        },
        torch.randn(x.shape, dtype=x.dtype, generator=generator),
    )


def by_differences(function, parameters, x, tangents, step=1e-6):
    """The derivative in a direction, from values that the kernels give."""

    def at(t):
        moved = {n: p + t * tangents[0][n] for n, p in parameters.items()}
        return function(moved, x + t * tangents[1])

    with torch.no_grad():
        return (at(step) - at(-step)) / (2 * step)


@every
def test_forward_mode(name):
    act = build(name)
    function, parameters = called(act)
    x = inputs()
    tangents = directions(parameters, x)
    if name in ('PWLU collect', 'PWLU fixed'):
        tangents = ({n: torch.zeros_like(p) for n, p in parameters.items()}, tangents[1])
    expected = by_differences(function, parameters, x, tangents)
    assert expected.abs().max() > 0.1

    value, tangent = jvp(function, (parameters, x), tangents)
    assert_near(value, function(parameters, x), 1e-12)
    assert_near(tangent, expected, 1e-7)
    with forward_ad.dual_level():
        dual = {n: forward_ad.make_dual(p, tangents[0][n]) for n, p in parameters.items()}
        y = forward_ad.unpack_dual(function(dual, forward_ad.make_dual(x, tangents[1])))
    assert_near(y.tangent, expected, 1e-7)

    # In x alone, as the layer is called.
    still = {n: torch.zeros_like(p) for n, p in parameters.items()}
    torch.manual_seed(3)
    _, tangent = jvp(act, (x,), (tangents[1],))
    expected = by_differences(function, parameters, x, (still, tangents[1]))
    assert_near(tangent, expected, 1e-7)


@every
def test_reverse_mode(name):
    """torch.func.grad and jacrev are what backward gives."""
    act = build(name)
    function, parameters = called(act)
    x = inputs((2, CHANNELS, 2, 2))
    weight = inputs(function(parameters, x).shape, seed=7)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    (act(leaf) * weight).sum().backward()

    by_parameters, by_x = grad(lambda p, x: (function(p, x) * weight).sum(), (0, 1))(parameters, x)
    assert_near(by_x, leaf.grad, 1e-9)
    for n, p in act.named_parameters():
        assert_near(by_parameters[n], p.grad, 1e-9)
    if name != 'RPAU training':  # the vmap inside asks for a kind of randomness
        columns = jacrev(function, 1)(parameters, x)
        assert_near(torch.tensordot(weight, columns, weight.dim()), leaf.grad, 1e-9)
        assert_near(jacfwd(function, 1)(parameters, x), columns, 1e-9)


@every
def test_per_sample_gradients(name):
    """vmap over samples of grad through functional_call, against a loop."""
    act = build(name)
    function, parameters = called(act)
    if name == 'RPAU training':
        with pytest.raises(RuntimeError, match='randomness'):
            vmap(function, (None, 0))(parameters, inputs().unsqueeze(1))
        y = vmap(function, (None, 0), randomness='same')(parameters, inputs()[:, None])
        assert_near(y[0], function(parameters, inputs()[:1]), 1e-12)
        y = vmap(function, (None, 0), randomness='different')(
            parameters, inputs()[:1, None].repeat(2, 1, 1, 1, 1)
        )
        assert (y[0] != y[1]).any()
        return
    x = inputs()

    def loss(parameters, sample):
        return function(parameters, sample.unsqueeze(0)).square().sum()

    each = vmap(grad(loss), (None, 0))(parameters, x)
    values = vmap(loss, (None, 0))(parameters, x)
    for k, sample in enumerate(x):
        act.zero_grad()
        expected = loss(dict(act.named_parameters()), sample)
        assert_near(values[k], expected, 1e-9)
        if parameters:
            expected.backward()
        for n, p in act.named_parameters():
            assert_near(each[n][k], p.grad, 1e-9)


@pytest.mark.parametrize('name', [n for n, r in RECORDS.items() if r.num_parameters])
def test_ensembles(name):
    """vmap over parameters, the input shared."""
    act = build(name)
    function, parameters = called(act)
    x = inputs()
    stacked = {n: torch.stack([p, p + 0.01]) for n, p in parameters.items()}
    y = vmap(function, (0, None))(stacked, x)
    for k in range(2):
        expected = function({n: p[k] for n, p in stacked.items()}, x)
        assert_near(y[k], expected, 1e-9)


@every
def test_second_derivatives(name):
    """By backward of backward: gradient penalties and second-order meta-learning."""
    act = build(name)
    function, parameters = called(act)
    names = list(parameters)
    x = inputs((2, CHANNELS, 2, 1)).requires_grad_()
    leaves = [p.clone().requires_grad_() for p in parameters.values()]

    def flat(x, *values):
        return function(dict(zip(names, values, strict=True)), x)

    if name in ('PWLU collect', 'PWLU fixed'):
        leaves = [p.detach() for p in leaves]
    assert torch.autograd.gradgradcheck(flat, (x, *leaves), atol=1e-4, rtol=1e-4)


@every
def test_gradient_penalty(name):
    """The gradient of a penalty is its derivative by differences."""
    act = build(name)
    function, parameters = called(act)
    x = inputs((2, CHANNELS, 2, 2))

    def penalty(parameters):
        leaf = x.clone().requires_grad_()
        y = function(parameters, leaf)
        (gx,) = torch.autograd.grad((y * y).sum(), leaf, create_graph=True)
        return gx.square().sum()

    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    penalty(leaves).backward()
    tangents, _ = directions(parameters, x)
    step = 1e-6
    ends = [
        penalty({n: p + s * tangents[n] for n, p in parameters.items()}).detach()
        for s in (step, -step)
    ]
    expected = (ends[0] - ends[1]) / (2 * step)
    found = sum((p.grad * tangents[n]).sum() for n, p in leaves.items() if p.grad is not None)
    if name in ('PWLU collect', 'PWLU fixed'):
        assert found == 0
    else:
        assert_near(torch.as_tensor(found, dtype=x.dtype), expected, 1e-5)


@every
def test_first_derivatives_of_both_ways(name):
    """Backward gives the same with create_graph=True as without."""
    act = build(name)
    x = inputs().requires_grad_()
    targets = [x, *act.parameters()]
    found = []
    for create_graph in (False, True):
        torch.manual_seed(3)
        y = act(x).square().sum()
        found.append(torch.autograd.grad(y, targets, create_graph=create_graph))
    for plain, again in zip(*found, strict=True):
        assert_near(again.detach(), plain, 1e-9)


@pytest.mark.parametrize('name', every_second([*RECORDS, 'PWLU collect', 'PWLU fixed']))
def test_compiled(name):
    """A compiled transform is right; without one the compiled graph has the kernels' ops.

    Not of RPAU in training: a compiled graph draws other numbers, so nothing can be compared.
    """
    act = build(name)
    x, (_, tangent) = inputs(), directions({}, inputs())
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(act, fullgraph=True, backend=keep)
    assert_near(compiled(x), act(x), 1e-12)
    kernels = {str(node.target).split('.')[0] for node in graphs[0].graph.nodes}
    assert ('mmact' in kernels) == (name not in PLAIN)
    # PyTorch cannot compile a jvp through batch_norm, and before torch 2.4 none.
    if name == 'FReLU' or not hasattr(torch.library, 'register_autograd'):
        return

    def forward_mode(x):
        return jvp(act, (x,), (tangent,))[1]

    compiled = torch.compile(forward_mode, fullgraph=True, backend='eager')
    assert_near(compiled(x), forward_mode(x), 1e-9)


def test_the_squeeze_in_place_is_left_alone():
    """DyReLU's first backward still completes the gradient in place, its second does not."""
    act = build('DyReLUC')
    x = inputs().requires_grad_()
    plain = torch.autograd.grad(act(x).square().sum(), x)[0]
    for _ in range(2):
        (gx,) = torch.autograd.grad(act(x).square().sum(), x, create_graph=True)
        gx.square().sum().backward()
        assert_near(gx.detach(), plain, 1e-9)
