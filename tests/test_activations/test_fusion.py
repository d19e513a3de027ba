# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""norm_act: BatchNorm, residual and activation in one op are what the three are alone."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from mmact import activations
from mmact.activations import PWLU, Activation, DyReLUB, fusion, list_activations, norm_act
from mmact.ops import has_kernel

CLASSES = [getattr(activations, r.name) for r in list_activations() if hasattr(activations, r.name)]
FUSED = [c for c in CLASSES if issubclass(c, Activation) and c.elementwise_op]
C = 6

pytestmark = pytest.mark.skipif(
    not has_kernel('pwlu_norm', 'cpu'), reason='needs the compiled CPU kernels'
)


def layer(cls, dtype=torch.float64):
    torch.manual_seed(1)
    groups = {'num_channels': C} if issubclass(cls, activations.ChannelActivation) else {}
    if cls.__name__ == 'GroupRational':
        groups['num_groups'] = 3
    act = cls(**groups)
    with torch.no_grad():
        for p in act.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return act.to(dtype)


def norm(dtype=torch.float64, **kwargs):
    torch.manual_seed(2)
    bn = nn.BatchNorm2d(C, **kwargs).to(dtype)
    if bn.affine:
        nn.init.normal_(bn.weight, 1, 0.3)
        nn.init.normal_(bn.bias, 0, 0.3)
    if bn.track_running_stats:
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    return bn


def separate(bn, act, x, residual=None):
    z = bn(x)
    return act(z if residual is None else z + residual)


def everything(function, bn, act, residual, dtype=torch.float64, memory_format=None, repeat=1):
    """The result, all gradients, and buffers, of a copy of the layers."""
    bn, act = copy.deepcopy(bn), copy.deepcopy(act)
    torch.manual_seed(3)
    inputs = [torch.randn(4, C, 5, 5, dtype=dtype) * 1.5 + 0.4 for _ in range(2 if residual else 1)]
    if memory_format is not None:
        inputs = [t.contiguous(memory_format=memory_format) for t in inputs]
    inputs = [t.requires_grad_() for t in inputs]
    for _ in range(repeat):
        torch.manual_seed(4)  # RPAU's noise
        y = function(bn, act, *inputs)
        (y * torch.randn_like(y)).sum().backward()
    found = {'y': y.detach(), 'x': inputs[0].grad}
    for name, module in (('bn', bn), ('act', act)):
        found |= {f'{name}.{n}': p.grad for n, p in module.named_parameters()}
        found |= {f'{name}.{n}': b for n, b in module.named_buffers()}
    if residual:
        found['residual'] = inputs[1].grad
    return found


def test_all_elementwise_ops_are_there():
    names = {cls.__name__ for cls in FUSED}
    assert names >= {'PWLU', 'AReLU', 'PAU', 'RPAU', 'DiTAC', 'APL', 'SReLU', 'AconC', 'XIELU'}
    assert not names & {'MetaAconC', 'DyReLUB', 'FReLU', 'StarReLU'}


@pytest.mark.parametrize('mode', ['train', 'eval', 'cumulative', 'untracked', 'plain'])
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('cls', FUSED)
def test_equals_the_layers_alone(cls, residual, mode):
    settings = dict(
        cumulative=dict(momentum=None),
        untracked=dict(track_running_stats=False),
        plain=dict(affine=False),
    ).get(mode, {})
    bn, act = norm(**settings), layer(cls)
    if mode == 'eval':
        bn.eval()
    x = torch.randn(4, C, 5, 5, dtype=torch.float64)
    assert fusion._in_one_op(bn, act, x, x if residual else None)
    memory_format = torch.channels_last if mode == 'train' else None
    one = everything(norm_act, bn, act, residual, memory_format=memory_format, repeat=2)
    other = everything(separate, bn, act, residual, memory_format=memory_format, repeat=2)
    assert one.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize('cls', FUSED)
def test_nothing_but_input_and_residual_is_kept(cls):
    """Not the normalised x, nor the sum: the bytes that a BatchNorm and an in-place ReLU keep."""
    bn, act = norm(torch.float32), layer(cls, torch.float32)
    x = torch.randn(4, C, 16, 16, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        norm_act(bn, act, x)
    large = [n for n in kept.values() if n >= x.numel()]
    assert large == [x.numel()]


@pytest.mark.parametrize('cls', FUSED)
def test_mixed_precision(cls):
    """BatchNorm and activation take bfloat16 with float32 parameters."""
    bn, act = norm(torch.float32), layer(cls, torch.float32)
    x, r = (torch.randn(4, C, 8, 8).bfloat16() for _ in range(2))
    torch.manual_seed(0)  # RPAU's noise
    with torch.autocast('cpu', torch.bfloat16):
        y = norm_act(copy.deepcopy(bn), act, x, r)
        assert y.dtype == torch.bfloat16
    torch.manual_seed(0)
    exact = separate(copy.deepcopy(bn), act, x.float(), r.float())
    # 2^-8 of the result, and rounding once where the layers round three times.
    torch.testing.assert_close(y.float(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('hook', ['norm', 'act', 'all'])
def test_hooks_see_what_they_always_saw(hook):
    bn, act = norm(torch.float32), layer(PWLU, torch.float32)
    x, seen = torch.randn(4, C, 5, 5), []

    def look(module, inputs, *result):
        seen.append(inputs[0])

    if hook == 'all':
        handle = nn.modules.module.register_module_forward_pre_hook(look)
    else:
        handle = (bn if hook == 'norm' else act).register_forward_hook(look)
    y = norm_act(bn, act, x)
    handle.remove()
    bn.running_mean.zero_()
    z = bn(x)
    assert torch.equal(seen[-1], x if hook == 'norm' else z)
    torch.testing.assert_close(y, act(z))


@pytest.mark.parametrize('groups', [None, 3, 1])
def test_phase_one_counts_what_the_norm_knows(groups):
    bn = norm(torch.float32)
    acts = [PWLU(C, num_groups=groups) for _ in range(2)]
    x = torch.randn(8, C, 9, 9) * torch.linspace(0.5, 2, C).view(C, 1, 1)
    for act in acts:
        act.start_collecting()
    for _ in range(3):
        y = [norm_act(bn, acts[0], x), separate(bn, acts[1], x)]
        torch.testing.assert_close(*y)
    torch.testing.assert_close(acts[0].running_mean, acts[1].running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(acts[0].running_std, acts[1].running_std, rtol=1e-5, atol=1e-6)
    # With a residual, and where the statistics are not those of x, the input has to be seen.
    assert not fusion._in_one_op(bn, acts[0], x, x)
    assert not fusion._in_one_op(bn.eval(), acts[0], x, None)


def test_what_is_left_alone():
    bn, act, x = norm(torch.float32), layer(PWLU, torch.float32), torch.randn(4, C, 5, 5)

    class Other(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    for other in (
        (Other(C), act, x, None),
        (nn.GroupNorm(2, C), act, x, None),
        (nn.Identity(), act, x, None),
        (bn, nn.ReLU(), x, None),
        (bn, DyReLUB(C), x, None),
        (bn, PWLU(5, channel_dim=-1), x, None),
        (bn, act, x, torch.randn(4, C, 1, 1)),
    ):
        assert not fusion._in_one_op(*other)
        y = norm_act(*copy.deepcopy(other[:2]), *other[2:])
        torch.testing.assert_close(y, separate(*other))


@pytest.mark.parametrize('cls', FUSED)
def test_meta_tensors(cls):
    x = torch.empty(4, C, 5, 5, device='meta')
    y = norm_act(norm(torch.float32).to('meta'), layer(cls, torch.float32).to('meta'), x, x)
    assert y.is_meta
    assert y.shape == x.shape


def test_errors_are_those_of_batch_norm():
    act = layer(PWLU, torch.float32)
    for bn, x in (
        (norm(torch.float32), torch.randn(1, C, 1, 1)),
        (norm(torch.float32), torch.randn(4, C, 5)),
        (norm(torch.float32), torch.randn(4, C + 1, 5, 5)),
    ):
        with pytest.raises((ValueError, RuntimeError)) as expected:
            bn(x)
        with pytest.raises(type(expected.value)) as found:
            norm_act(bn, act, x)
        assert str(found.value) == str(expected.value)


class Block(nn.Module):
    def __init__(self, cls=PWLU):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, C, 1), nn.BatchNorm2d(C), layer(cls)
        self.float()

    def forward(self, x):
        h = self.conv(x)
        return norm_act(self.bn, self.act, h, h)


def test_second_derivatives():
    block = Block(activations.PAU).double()
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = [block.bn.weight, block.act.numerator]

    def penalty():
        (g,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), weights)

    one = penalty()
    block.act.register_forward_hook(lambda *args: None)
    for a, b in zip(one, penalty(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('cls', FUSED)
def test_tracing_compiling_transforming(cls):
    block = Block(cls).eval()
    x = torch.randn(2, 3, 4, 4)
    expected = block(x)
    graph = fx.symbolic_trace(block)
    targets = {n.target for n in graph.graph.nodes if n.op == 'call_module'}
    assert targets == {'conv', 'bn', 'act'}
    torch.testing.assert_close(graph(x), expected)
    torch.testing.assert_close(torch.jit.trace(block, x)(x), expected)
    parameters = dict(block.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(block, parameters, (x,)).square().mean()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, p in parameters.items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-5)


def test_compiles():
    block = Block()
    other = copy.deepcopy(block)
    compiled = torch.compile(other, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(compiled(x), block(x))
    torch.testing.assert_close(other.bn.running_mean, block.bn.running_mean)


def test_checkpointing():
    block = Block()
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    block(x).square().sum().backward()
    expected = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    checkpoint(block, x, use_reentrant=False).square().sum().backward()
    for p, g in zip(block.parameters(), expected, strict=True):
        assert torch.equal(p.grad, g)


@pytest.mark.parametrize('cls', FUSED)
def test_twenty_steps_of_training(cls):
    def train(fused):
        torch.manual_seed(0)
        net = nn.ModuleList([Block(cls), Block(cls)])
        net[1].conv = nn.Conv2d(C, C, 3, padding=1)
        if not fused:
            for block in net:
                block.act.register_forward_hook(lambda *args: None)
        net.double()
        optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
        g = torch.Generator().manual_seed(0)
        for _ in range(20):
            x = torch.randn(4, 3, 6, 6, generator=g, dtype=torch.float64)
            optimizer.zero_grad()
            net[1](net[0](x)).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)  # of SLAF's polynomials
            optimizer.step()
        return net.state_dict()

    one, other = train(True), train(False)
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=1e-5, atol=1e-7, msg=key)
