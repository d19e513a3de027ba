# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""GroupRational, StarReLU, XIELU, AconC, MetaAconC and Squareplus, against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_ops.utils import assert_near, random_tensor
from torch import nn

from mmact.activations import XIELU, AconC, GroupRational, MetaAconC, Squareplus, StarReLU

EVERY = {
    'GroupRational': lambda: GroupRational(num_groups=3, channel_dim=1),
    'StarReLU': StarReLU,
    'XIELU': XIELU,
    'AconC': lambda: AconC(6),
    'MetaAconC': lambda: MetaAconC(6),
    'Squareplus': Squareplus,
}
every = pytest.mark.parametrize('name', EVERY)


def build(name):
    torch.manual_seed(0)
    return EVERY[name]().double()


@every
def test_gradcheck(name):
    act = build(name)
    with torch.no_grad():
        for p in act.parameters():  # initial denominators of 0 lie on a kink
            p.add_(0.1 * torch.rand_like(p))
    x = random_tensor((3, 6, 4)).requires_grad_()
    parameters = dict(act.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(act, dict(zip(parameters, values, strict=True)), x)

    torch.autograd.gradcheck(function, (x, *parameters.values()))


@every
def test_parameters_are_flat(name):
    assert all(p.dim() == 1 and p.numel() for p in build(name).parameters())


@every
def test_one_nan_stays_one(name):
    act = build(name)
    x = random_tensor((2, 6, 5, 5))
    x[0, 1, 2, 3] = math.nan
    y = act(x)
    if name == 'MetaAconC':  # the switches of the whole sample are made of it
        assert y[0].isnan().all()
        assert y[1].isfinite().all()
    else:
        assert torch.equal(y.isnan(), x.isnan())


# GroupRational ------------------------------------------------------------------------------------


def kat(x, numerator, denominator):
    """KAT's Triton kernel on (B, L, C), numerator (1, 6) and denominator (G, 4)."""
    size = x.size(-1) // denominator.size(0)
    y = torch.empty_like(x)
    for c in range(x.size(-1)):
        v, b = x[..., c], denominator[c // size]
        p = sum(a * v**k for k, a in enumerate(numerator[0]))
        q = 1 + sum(b[k].abs() * v.abs() ** (k + 1) for k in range(4))
        y[..., c] = p / q
    return y


def test_group_rational_is_kats_formula():
    numerator, denominator = random_tensor((1, 6), seed=1), random_tensor((8, 4), seed=2)
    x = 3 * random_tensor((2, 7, 24)).requires_grad_()
    act = GroupRational(num_groups=8, channel_dim=-1).double()
    act.load_state_dict({'weight_numerator': numerator, 'weight_denominator': denominator})
    y = act(x)
    with torch.no_grad():
        assert_near(y, kat(x, numerator, denominator), 1e-14)
    parameters = [numerator.requires_grad_(), denominator.requires_grad_()]
    grad = random_tensor(y.shape, seed=3)
    expected = torch.autograd.grad(kat(x, *parameters), [x, *parameters], grad)
    actual = torch.autograd.grad(y, [x, act.numerator, act.denominator], grad)
    for a, e in zip(actual, expected, strict=True):
        assert_near(a, e.reshape(a.shape), 1e-13)


def test_a_kat_checkpoint_is_read():
    """The names and shapes that KAT's blocks have in their state_dict."""
    mlp = nn.Sequential()
    mlp.act1, mlp.act2 = (
        GroupRational(init=init, channel_dim=-1) for init in ('identity', 'swish')
    )
    checkpoint = {
        f'act{k}.weight_{part}': random_tensor(shape, torch.float32, seed=10 * k)
        for k in (1, 2)
        for part, shape in (('numerator', (1, 6)), ('denominator', (8, 4)))
    }
    kept = dict(checkpoint)
    mlp.load_state_dict(checkpoint)
    assert checkpoint == kept
    x = random_tensor((2, 5, 16), torch.float32)
    expected = kat(x, checkpoint['act1.weight_numerator'], checkpoint['act1.weight_denominator'])
    assert_near(mlp.act1(x), expected, 1e-5)
    with pytest.raises(RuntimeError, match='size mismatch'):
        GroupRational(num_groups=4).load_state_dict(
            {name[5:]: value for name, value in checkpoint.items() if name.startswith('act1')}
        )


@pytest.mark.parametrize(
    ('init', 'function', 'tolerance'),
    [('identity', lambda x: x, 1e-15), ('swish', F.silu, 1e-3), ('gelu', F.gelu, 5e-3)],
)
def test_group_rational_starts_as_its_function(init, function, tolerance):
    x = torch.linspace(-3, 3, 64, dtype=torch.float64).reshape(8, 8)
    act = GroupRational(init=init, channel_dim=-1).double()
    assert_near(act(x), function(x), tolerance)


def test_group_rational_channels():
    assert nn.Sequential(nn.Linear(4, 16), GroupRational())[1].channel_dim == -1
    assert nn.Sequential(nn.Conv2d(3, 16, 1), GroupRational())[1].channel_dim == 1
    with pytest.raises(ValueError, match='12 channels cannot be shared by num_groups=8'):
        GroupRational(12)
    with pytest.raises(ValueError, match='a multiple of 8 channels .*12, 3'):
        GroupRational()(torch.randn(2, 12, 3))
    for bad in (dict(num_groups=0), dict(m=32), dict(n=0)):
        with pytest.raises(ValueError, match='must be (a positive|an) integer'):
            GroupRational(**bad)


# The others ---------------------------------------------------------------------------------------


def test_star_relu():
    x = random_tensor((4, 5), seed=1)
    act = StarReLU().double()
    assert_near(act(x), 0.8944271909999159 * x.clamp(min=0) ** 2 - 0.4472135954999579, 1e-7)
    y = act(random_tensor((1_000_000,)))
    assert abs(y.mean()) < 5e-3
    assert abs(y.std() - 1) < 5e-3
    ends = act(torch.tensor([-math.inf, math.inf], dtype=torch.float64))
    assert_near(ends[0], torch.tensor(-0.4472135954999579).double(), 1e-7)
    assert ends[1] == math.inf


def test_xielu():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64).requires_grad_()
    act = XIELU(alpha_p=0.7, alpha_n=1.2).double()
    above, below = 0.7 * x**2 + 0.5 * x, 1.2 * (x.exp() - 1 - x) + 0.5 * x
    assert_near(act(x), torch.where(x > 0, above, below), 1e-6)  # alphas were made in float32
    (gradient,) = torch.autograd.grad(act(x).sum(), x)
    slope = torch.where(x > 0, 1.4 * x + 0.5, 1.2 * (x.exp() - 1) + 0.5)
    assert_near(gradient, slope.detach(), 1e-6)
    assert (gradient < 0).any()
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    assert torch.equal(act(ends), torch.full_like(ends, math.inf))
    near = torch.tensor([-1e-20, 1e-20]).double()
    assert_near(1e20 * act(near), 1e20 * 0.5 * near, 1e-12)
    with pytest.raises(ValueError, match='alpha_n must be a finite number > beta=0.5, got 0.4'):
        XIELU(alpha_n=0.4)


def test_squareplus():
    x = random_tensor((1000,)) * 5
    assert_near(Squareplus()(x), (x + (x**2 + 4).sqrt()) / 2, 1e-14)
    # No cancellation below 0, no overflow of squares, the derivative's limits at infinity.
    far = torch.tensor([-1e4, -(2.0**100), 2.0**100, -math.inf, math.inf]).requires_grad_()
    y = Squareplus()(far)
    assert abs(y[0].item() / 1e-4 - 1) < 1e-6
    assert y.tolist()[1:] == pytest.approx([0, 2.0**100, 0, math.inf], abs=1e-17)
    assert torch.autograd.grad(y.sum(), far)[0].tolist() == pytest.approx([0, 0, 1, 0, 1], abs=1e-7)
    zero = torch.zeros(1).requires_grad_()
    y = Squareplus(b=9)(zero)
    assert (y.item(), torch.autograd.grad(y, zero)[0].item()) == (1.5, 0.5)
    with pytest.raises(ValueError, match='b must be a positive number, got 0'):
        Squareplus(b=0)


def test_acon_c_is_the_papers_formula():
    x = random_tensor((2, 6, 3, 3))
    act = build('AconC')
    with torch.no_grad():
        act.beta.copy_(random_tensor((6,), seed=4))
    p1, p2, beta = (p.detach().view(1, 6, 1, 1) for p in (act.p1, act.p2, act.beta))
    d = (p1 - p2) * x
    assert_near(act(x), d * torch.sigmoid(beta * d) + p2 * x, 1e-14)
    last = AconC(6, channel_dim=-1).double()
    last.load_state_dict(act.state_dict())
    assert torch.equal(last(x.movedim(1, -1)).movedim(-1, 1), act(x))
    assert_near(AconC(6, p1=1, p2=0).double()(x), F.silu(x), 1e-14)


class YoloMetaAconC(nn.Module):
    """YOLOv5's layer, as far as its checkpoints go: names and shapes of the parameters."""

    def __init__(self, c, r=16):
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, c, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c, 1, 1))
        self.fc1 = nn.Conv2d(c, max(r, c // r), 1)
        self.fc2 = nn.Conv2d(max(r, c // r), c, 1)

    def forward(self, x):
        beta = torch.sigmoid(self.fc2(self.fc1(x.mean((2, 3), keepdim=True))))
        d = (self.p1 - self.p2) * x
        return d * torch.sigmoid(beta * d) + self.p2 * x


def test_yolos_checkpoints_are_read():
    torch.manual_seed(0)
    theirs = YoloMetaAconC(32).double()
    ours = MetaAconC(32).double()
    ours.load_state_dict(theirs.state_dict())
    x = random_tensor((2, 32, 4, 5))
    assert_near(ours(x), theirs(x), 1e-13)
    ours.load_state_dict(ours.state_dict())
    plain = AconC(32).double()
    shape = (1, 32, 1, 1)
    checkpoint = {n: random_tensor(shape, seed=k) for k, n in enumerate(('p1', 'p2', 'beta'))}
    plain.load_state_dict(checkpoint)
    assert torch.equal(plain.p2, checkpoint['p2'].flatten())


def test_acon_errors():
    with pytest.raises(ValueError, match='AconC: p1 must be a finite number, got inf'):
        AconC(3, p1=math.inf)
    with pytest.raises(ValueError, match='has 3 channels at dimension 1, got an input of shape'):
        AconC(3)(torch.randn(2, 4))
    with pytest.raises(RuntimeError, match='does not know its number of channels'):
        MetaAconC()(torch.randn(2, 4))
    with pytest.raises(ValueError, match='dimension 0 holds the samples'):
        MetaAconC(2, channel_dim=0)(torch.randn(2, 4))
