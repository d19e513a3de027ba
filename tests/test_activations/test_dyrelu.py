# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The layers DyReLUA, B and C: sections 3.2 and 4 of the paper."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import HALF_LAYERS, LAYOUTS, TORCH, assert_near, random_tensor, with_gradients
from torch import nn

from mmact.activations import DyReLUA, DyReLUB, DyReLUC

ALL = (DyReLUA, DyReLUB, DyReLUC)
SHAPES = {  # name: shape for C channels, their dimension
    'rows': (lambda c: (5, c), None),
    'ncl': (lambda c: (2, c, 9), None),
    'nchw': (lambda c: (2, c, 5, 7), None),
    'ncdhw': (lambda c: (2, c, 3, 2, 5), None),
    'tokens': (lambda c: (2, 13, c), -1),
    'one_pixel': (lambda c: (1, c, 1, 1), None),
}
every = pytest.mark.parametrize('cls', ALL)


def build(cls, channels=12, dtype=torch.float64, seed=0, **kwargs):
    """A layer whose hyper function does something."""
    torch.manual_seed(seed)
    act = cls(channels, **kwargs).to(dtype)
    with torch.no_grad():
        for p in act.parameters():
            p.copy_(torch.randn_like(p) / math.sqrt(p.size(-1)))
        act.fc1_bias.abs_()  # no dead unit
    return act


def paper(act, x, dim=1):
    """Eq. 1 to 5 written for (B, C, pixels), from the layer's weights."""
    moved = x.movedim(dim, 1)
    flat = moved.reshape(*moved.shape[:2], -1)
    batch, channels, pixels = flat.shape
    theta = flat.mean(2) @ act.fc1_weight.view(act.hidden_channels, -1).T + act.fc1_bias
    theta = theta.clamp(min=0) @ act.fc2_weight.view(-1, act.hidden_channels).T + act.fc2_bias
    delta = 2 / (1 + torch.exp(-theta)) - 1
    per = 1 if isinstance(act, DyReLUA) else channels
    values = []
    for k in range(act.K):  # Eq. 2: slopes of all functions, then intercepts
        a, b = (delta[:, (i * act.K + k) * per : (i * act.K + k + 1) * per] for i in (0, 1))
        a = act.alphas[k] + act.lambda_a * a
        b = act.betas[k] + act.lambda_b * b
        values.append(a.unsqueeze(2) * flat + b.unsqueeze(2))
    y = torch.stack(values).amax(0)
    if isinstance(act, DyReLUC):
        z = torch.einsum('bcp,c->bp', flat, act.attention_weight)
        e = torch.exp(z / act.temperature)
        pi = (act.gamma * pixels * e / e.sum(1, keepdim=True)).clamp(max=1)
        y = y * pi.unsqueeze(1)
    return y.reshape(moved.shape).movedim(1, dim)


@every
@pytest.mark.parametrize('kind', SHAPES)
def test_equations(cls, kind):
    shape, dim = SHAPES[kind]
    for channels in (1, 3, 20):
        for options in ({}, dict(K=1), dict(K=3, reduction=2, lambda_a=2.0, lambda_b=0.25)):
            act = build(cls, channels, channel_dim=dim, **options)
            x = random_tensor(shape(channels))
            expected = paper(act, x, 1 if dim is None else dim)
            assert_near(act(x), expected, 1e-13, f'{channels} {options}')


@every
def test_gradients(cls):
    for kind in ('nchw', 'tokens', 'rows'):
        shape, dim = SHAPES[kind]
        act = build(cls, 5, channel_dim=dim)
        inputs = [random_tensor(shape(5)).requires_grad_(), *act.parameters()]
        torch.autograd.gradcheck(lambda x, *_, act=act: act(x), inputs, eps=1e-7, atol=1e-6)


@every
def test_gradients_where_the_input_has_other_uses(cls):
    """A residual connection, a frozen layer, and an input that learns nothing."""
    act = build(cls, 6)
    x = random_tensor((2, 6, 4, 5)).requires_grad_()
    torch.autograd.gradcheck(lambda x: act(2 * x) + x.square(), (x,), eps=1e-7, atol=1e-6)
    expected = torch.autograd.grad(act(x).sum(), [x, *act.parameters()])
    act.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(act(x).sum(), x)[0], expected[0])
    act.requires_grad_(True)
    grads = torch.autograd.grad(act(x.detach()).sum(), list(act.parameters()))
    for a, b in zip(grads, expected[1:], strict=True):
        assert_near(a, b, 1e-14)


@every
def test_starts_as_its_static_twin(cls):
    """Eq. 4: alphas and betas are the coefficients' initial values; by default ReLU's."""
    x = random_tensor((3, 16, 6, 5), torch.float32)
    x[0, 0] = 0
    act = cls(16)
    if cls is DyReLUC:  # equal attention everywhere
        assert_near(act(x), x.relu() / 3, 2e-7)
        assert_near(cls(16, alphas=(3, 0), lambda_a=3.0, lambda_b=1.5)(x), x.relu(), 5e-7)
        act = cls(16, gamma=1.0)
    y, gx, *_ = with_gradients(act, x, (), torch.ones_like(x))
    assert torch.equal(y, x.relu())
    assert_near(gx, (x > 0).float(), 1e-6)
    if cls is not DyReLUC:
        leaky = cls(16, alphas=(1.0, 0.25))
        assert torch.equal(leaky(x), F.leaky_relu(x, 0.25))
        shifted = cls(16, K=3, alphas=(1, 0, -1), betas=(0, 0.5, 0))
        assert torch.equal(shifted(x), torch.maximum(x.abs(), torch.tensor(0.5)))


def test_special_cases_of_table_1():
    """With a hyper function that is forced: ReLU, LeakyReLU, PReLU, and SE."""
    x = random_tensor((3, 5, 4, 4), seed=1)
    act = build(DyReLUB, 5)
    nn.init.zeros_(act.fc2_weight)
    nn.init.zeros_(act.fc2_bias)
    assert torch.equal(act(x), x.relu())
    slopes = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    with torch.no_grad():  # 2 sigmoid(z) - 1 = slope
        act.fc2_bias[5:10] = torch.log((1 + slopes) / (1 - slopes))
    assert_near(act(x), F.prelu(x, slopes), 1e-15)
    # SE: one function with slope from 0 to 1, no intercept.
    act = build(DyReLUB, 5, K=1, alphas=(0.5,), lambda_a=0.5, lambda_b=0.0)
    hidden = F.relu(x.mean((2, 3)) @ act.fc1_weight.view(-1, 5).T + act.fc1_bias)
    weights = (hidden @ act.fc2_weight.view(-1, 1).T + act.fc2_bias)[:, :5].sigmoid()
    assert_near(act(x), x * weights[:, :, None, None], 1e-15)


def train_xor(seed):
    torch.manual_seed(seed)
    points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    wanted = torch.tensor([0.0, 1, 1, 0])
    model = nn.Sequential(
        nn.Linear(2, 1, bias=False), DyReLUB(1, K=1, alphas=(0.5,), lambda_a=2.0, lambda_b=0.0)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.mse_loss(model(points)[:, 0], wanted)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_xor_with_one_linear_layer():
    """Section 3.2: one linear layer with one output, one function without intercept.

    Two weights and one hidden unit do not find it from every start.
    """
    assert min(map(train_xor, range(4))) < 1e-3


@every
@pytest.mark.parametrize('channels', [1, 2, 3, 7])
def test_few_channels_stay_dynamic(cls, channels):
    """A hidden unit at least: what a sample gets depends on the sample."""
    act = build(cls, channels, dtype=torch.float32)
    assert act.hidden_channels == 1
    x = random_tensor((8, channels, 4, 4), torch.float32)
    probe = torch.cat([x, 2 * x, x - 1])
    mean = probe.mean((2, 3))
    slopes = act.coefficients(mean)[:, :2]
    assert (slopes.std(0) > 1e-3).any()


def test_new_layers_are_not_dead():
    """With the hidden layer's bias at 0, about half of the samples reach a unit; none is dead."""
    torch.manual_seed(0)
    samples = torch.randn(64, 8)  # centred, as after BatchNorm
    for _ in range(20):
        act = DyReLUB(8)
        hidden = F.relu(samples @ act.fc1_weight.view(-1, 8).T + act.fc1_bias)
        assert (hidden > 0).any(0).all()


def test_attention():
    """Eq. 5: on average gamma before the cut, between 0 and 1, softened by the temperature."""
    act = build(DyReLUC, 6)
    logits = random_tensor((3, 1, 8, 9))
    attention = act.attend(logits)
    assert attention.shape == logits.shape
    assert_near(attention.mean((1, 2, 3)), torch.full((3,), 1 / 3).double(), 1e-7)
    peaked = act.attend(1e3 * logits)
    assert peaked.max() == 1
    assert (peaked >= 0).all()
    sharp = DyReLUC(6, temperature=1.0).attend(logits)
    assert sharp.std() > 5 * attention.std()
    half = DyReLUC(6, gamma=0.5).attend(logits)
    assert_near(half, attention * 1.5, 1e-12)


@every
def test_context(cls):
    """A hyper function that sees another tensor: in some blocks, a convolution's input."""
    act = build(cls, 6, context_channels=10)
    assert act.seen_channels == 10
    x, context = random_tensor((2, 6, 4, 4)), random_tensor((2, 10, 8, 8), seed=1)
    y = act(x, context)
    same = act(x, context.mean((2, 3), keepdim=True))
    assert_near(y, same, 1e-14)
    assert (y - act(x, context + 1)).abs().max() > 1e-3
    inputs = (x.requires_grad_(), context.requires_grad_())
    torch.autograd.gradcheck(act, inputs, eps=1e-7, atol=1e-6)
    with pytest.raises(ValueError, match='the hyper function sees 10 channels'):
        act(x)


@every
def test_half_precision_averages_in_float32(cls):
    """A float16 sum of these would be infinite, and a bfloat16 one stop at 256."""
    for dtype in HALF_LAYERS:
        act = build(cls, 4, dtype=torch.float32)
        x = torch.full((2, 4, 200, 200), 3.0) + random_tensor((2, 4, 200, 200), torch.float32)
        expected = act(x.to(dtype).float())
        y = act(x.to(dtype))
        assert y.dtype == dtype
        assert_near(y, expected, 2 * torch.finfo(dtype).eps)
        with torch.autocast('cpu', dtype):
            y = act(x.to(dtype))
        assert y.dtype == dtype
        # Autocast rounds the two linear layers: their weights and 4 inputs, each at most 6 wide.
        assert_near(y, expected, 32 * torch.finfo(dtype).eps)
        halved = copy.deepcopy(act).to(dtype)
        assert_near(halved(x.to(dtype)), expected, 32 * torch.finfo(dtype).eps)


@every
@pytest.mark.parametrize('layout', ['nchw', 'channels_last', 'every_second'])
def test_layouts(cls, layout):
    act = build(cls, 8, dtype=torch.float32)
    x = random_tensor((2, 8, 6, 7), torch.float32)
    y = act(LAYOUTS[layout].place(x))
    assert_near(y, act(x), 1e-6)
    assert y.stride() == torch.empty_like(LAYOUTS[layout].place(x)).stride()


@every
def test_samples_do_not_see_each_other(cls):
    act = build(cls, 8)
    x = random_tensor((4, 8, 5, 5))
    alone = torch.cat([act(sample) for sample in x.split(1)])
    assert_near(act(x), alone, 1e-14)
    x[2, 3, 1, 1] = math.nan
    y = act(x)
    assert y[2].isnan().all()
    assert_near(y[[0, 1, 3]], alone[[0, 1, 3]], 1e-14)


@every
@pytest.mark.skipif(TORCH < (2, 2), reason='torch.export has no Dim before torch 2.2')
def test_compile_and_export(cls):
    act = build(cls, 8, dtype=torch.float32)
    x = random_tensor((2, 8, 6, 7), torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(act, fullgraph=True, backend='aot_eager')

    def results(function):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        return y, *torch.autograd.grad(y, [leaf, *act.parameters()], x)

    for a, b in zip(results(act), results(compiled), strict=True):
        assert_near(b, a, 1e-6)
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(act, (x,), dynamic_shapes=({0: batch},))
    other = random_tensor((5, 8, 6, 7), torch.float32, seed=2)
    assert_near(program.module()(other), act(other), 1e-6)


@every
def test_takes_its_channels_from_the_surroundings(cls):
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), cls())
    assert model[2].seen_channels == 20
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 20, 6, 6)
    tokens = nn.Sequential(nn.Linear(3, 20), cls())
    assert tokens(torch.randn(2, 7, 3)).shape == (2, 7, 20)
    with pytest.raises(RuntimeError, match='does not know its number of channels'):
        cls()(torch.randn(2, 3, 4, 4))


def test_state_dict():
    act = DyReLUC(16, K=3)
    shapes = {name: tuple(value.shape) for name, value in act.state_dict().items()}
    assert shapes == {
        'fc1_weight': (2 * 16,),
        'fc1_bias': (2,),
        'fc2_weight': (96 * 2,),
        'fc2_bias': (96,),
        'attention_weight': (16,),
    }
    assert tuple(DyReLUA(16).fc2_weight.shape) == (4 * 2,)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(K=0), 'K must be a positive integer, got 0'),
        (dict(reduction=2.5), 'reduction must be a positive integer, got 2.5'),
        (dict(context_channels=0), 'context_channels must be a positive integer'),
        (dict(alphas=(1.0,)), r'alphas must be 2 finite numbers, got \(1.0,\)'),
        (dict(betas=(0, math.nan)), 'betas must be 2 finite numbers'),
        (dict(lambda_a=math.inf), 'lambda_a must be a finite number, got inf'),
        (dict(num_channels=0), 'num_channels must be a positive integer'),
    ],
)
@every
def test_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError, match=f'{cls.__name__}: {message}'):
        cls(**kwargs)


def test_more_bad_arguments():
    for name in ('temperature', 'gamma'):
        for value in (0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f'DyReLUC: {name} must be a positive number'):
                DyReLUC(8, **{name: value})
    for cls in ALL:
        for shape in ((2, 7, 4, 4), (8,), (4, 8)[:1]):
            with pytest.raises(ValueError, match='the layer has 8 channels, at dimension 1'):
                cls(8)(torch.randn(shape))
