# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""DCGAN with different activations, on digits.

The DiTAC paper trains DCGAN (supplement, section B): 300,000 iterations on crops of 64 x 64, an
effective batch of 128, Adam with a learning rate of 2e-4 in both networks. The supplement says
neither which activations are replaced nor what came out. Here all are, in both networks, or in one
of them with --replace; DCGAN is the network as it is, with ReLU in the generator and LeakyReLU of
slope 0.2 in the discriminator. Weights from N(0, 0.02^2), BatchNorm, Adam's first beta of 0.5 and
100 latent numbers are DCGAN's. For a CPU, digits have 28 x 28 pixels, which takes three activations
in each network instead of four, batches are of 64, and 1,500 steps have a learning rate of 1e-3.

The measure is the Frechet distance on LeNet's features, not FID: that of two Gaussians with the
means and covariances of LeNet's last 84 features, of the training digits and of as many generated
ones. LeNet is trained on the same digits, so that a distance compares with no FID, nor with one on
other digits. PWLU starts in its learning phase, without statistics. Run it again to continue after
an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import cv2
import mmcv.cnn  # noqa: F401  registers MMCV's activations
import numpy as np
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .training import PlainNet, batches, lenet, train

RESULTS = Path(__file__).with_name('dcgan.jsonl')
ACTIVATIONS = ('DCGAN', 'ReLU', 'GELU', 'PReLU', 'DiTAC', 'PWLU', 'PAU', 'AReLU')
ORIGINAL = {
    'generator': dict(type='ReLU'),
    'discriminator': dict(type='LeakyReLU', negative_slope=0.2),
}
LATENT, BATCH_SIZE, BETAS = 100, 64, (0.5, 0.999)
#: Channels, as multiples of the width, at 4, 7 and 14 pixels.
FACTORS = (4, 2, 1)
#: Kernel, stride and padding of the convolutions between 1, 4, 7, 14 and 28 pixels.
CONVS = ((4, 1, 0), (3, 2, 1), (4, 2, 1), (4, 2, 1))
#: Digits of a run that are kept for the picture.
SHOWN = 12
#: Passes over the digits in the training of the LeNet whose features are compared.
EPOCHS = 10


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS, ACTIVATIONS)
    parser.add_argument(
        '--replace',
        choices=('both', *ORIGINAL),
        default='both',
        help='network whose activations are replaced (default: both)',
    )
    parser.add_argument(
        '--steps', type=positive(int), default=1500, help='of both networks (default: 1500)'
    )
    parser.add_argument(
        '--lr', type=positive(float), default=1e-3, help='of both networks (default: 1e-3)'
    )
    parser.add_argument(
        '--width',
        type=positive(int),
        default=16,
        help='channels at 14 x 14 pixels; at 7 x 7 two times, at 4 x 4 four times as many '
        '(default: 16)',
    )
    parser.add_argument(
        '--picture', type=Path, metavar='PNG', help='draw digits (default: no picture)'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        digits = load_digits(args.data)
        for name in args.activations:
            generator, discriminator = networks(args.width, act_cfgs(name, args.replace))
            discriminator(generator(torch.zeros(2, LATENT)))
    keys = [
        {
            'data': digits.identity,
            'width': args.width,
            'lr': args.lr,
            'steps': args.steps,
            'seed': seed,
            'act_cfgs': act_cfgs(name, args.replace),
        }
        for seed, name in product(range(args.runs), args.activations)
    ]
    features = cache(lambda: feature_net(digits))

    def describe(key: dict, result: dict) -> str:
        types = ' and '.join(cfg['type'] for cfg in key['act_cfgs'].values())
        return f'{types}, run {key["seed"]}: {_number(result)} in {result["seconds"]:.0f} s'

    results = complete(
        keys, Journal(args.results), lambda key: run(key, digits, features()), describe
    )
    real = frechet_distance(features()(digits.train_images), features()(digits.test_images))
    print(table(results, args, digits, real))
    if args.picture:
        draw(results, args, digits)
        print('written:', args.picture)


def act_cfgs(name: str, where: str) -> dict[str, dict]:
    """The activations of both networks.

    Args:
        name: A registered type, or ``'DCGAN'`` for the original ones.
        where: Network that has it, ``'generator'``, ``'discriminator'`` or ``'both'``; the other
            one has the original.
    """
    return {
        network: original if name == 'DCGAN' or where not in ('both', network) else dict(type=name)
        for network, original in ORIGINAL.items()
    }


def networks(width: int, acts: dict[str, dict]) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and discriminator of a run, with DCGAN's initial weights.

    Args:
        width: Channels at 14 x 14 pixels.
        acts: Of :func:`act_cfgs`.

    Returns:
        The generator, (B, 100) to images (B, 1, 28, 28) in [-1, 1]; the discriminator, such images
        to logits (B, 1, 1, 1) of being real.
    """
    widths = [LATENT, *(factor * width for factor in FACTORS), 1]
    generator = nn.Sequential(nn.Unflatten(1, (LATENT, 1, 1)))
    for channels, out, conv in zip(widths, widths[1:], CONVS, strict=False):
        generator.append(nn.ConvTranspose2d(channels, out, *conv, bias=False))
        if out > 1:
            generator.append(nn.BatchNorm2d(out))
            _append_activation(generator, acts['generator'])
    generator.append(nn.Tanh())
    widths = [1, *reversed(widths[1:-1]), 1]
    discriminator = nn.Sequential()
    for channels, out, conv in zip(widths, widths[1:], reversed(CONVS), strict=False):
        discriminator.append(nn.Conv2d(channels, out, *conv, bias=False))
        if channels > 1 and out > 1:
            discriminator.append(nn.BatchNorm2d(out))
        if out > 1:
            _append_activation(discriminator, acts['discriminator'])
    for net in (generator, discriminator):
        for layer in net:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
                mean = float(isinstance(layer, nn.BatchNorm2d))
                nn.init.normal_(layer.weight, mean, 0.02)
        net.to(memory_format=torch.channels_last)
    return generator, discriminator


def _append_activation(net: nn.Sequential, act_cfg: dict) -> None:
    # The weights are the same with any activation, whatever it draws.
    with torch.random.fork_rng(devices=[]):
        net.append(MODELS.build(dict(act_cfg)))


def run(key: dict, digits: Digits, features: nn.Module) -> dict:
    """Trains one pair of networks.

    Args:
        key: Width, learning rate, steps, seed and activations.
        digits: The data.
        features: Of :func:`feature_net`.

    Returns:
        ``distance`` to the training digits at the end, None if a loss was not finite; ``picture``,
        some digits side by side as a PNG in base64; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    noise = torch.Generator().manual_seed(key['seed'])
    generator, discriminator = networks(key['width'], key['act_cfgs'])
    optimizers = [
        torch.optim.Adam(net.parameters(), key['lr'], BETAS) for net in (generator, discriminator)
    ]
    number = len(digits.train_images)
    finite = True
    for indices in batches(number, BATCH_SIZE * key['steps'], BATCH_SIZE, key['seed']):
        real = 2 * digits.train_images[indices] - 1
        fake = generator(torch.randn(BATCH_SIZE, LATENT, generator=noise))
        loss = _bce(discriminator(real), 1) + _bce(discriminator(fake.detach()), 0)
        _step(optimizers[1], loss)
        loss = loss + _step(optimizers[0], _bce(discriminator(fake), 1))
        if not torch.isfinite(loss):
            finite = False
            break
    generator.eval()
    with torch.no_grad():
        made = [generator(z) for z in torch.randn(number, LATENT, generator=noise).split(500)]
    images = (torch.cat(made) + 1) / 2
    distance = None
    if finite:
        distance = frechet_distance(features(digits.train_images), features(images))
    return {
        'distance': distance,
        'picture': _encode(images[:SHOWN]),
        'seconds': round(time.monotonic() - start, 2),
    }


def _bce(logits: Tensor, real: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """One step on the optimizer's parameters alone; returns the loss."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]['params'])
    optimizer.step()
    return loss.detach()


def feature_net(digits: Digits) -> nn.Module:
    """LeNet trained on the digits, without its last layer: (B, 1, 28, 28) to (B, 84) features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: PlainNet = lenet(dict(type='ReLU'))
    images = len(digits.train_images)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.002)
    train(net, digits, optimizer, batches(images, EPOCHS * images, BATCH_SIZE, seed=0))
    return nn.Sequential(*list(net)[:-1]).eval().requires_grad_(False)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of Gaussians with the means and covariances of two samples.

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), in float64. C1 C2 has the eigenvalues of
    the symmetric R C2 R with R = C1^(1/2), so that covariances may be singular.

    Args:
        first: (N, D), N > 1.
        second: (M, D), M > 1.
    """
    first, second = first.double(), second.double()
    covariance, other = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return float(means + covariance.trace() + other.trace() - 2 * cross)


def _number(result: dict) -> str:
    return 'not finite' if result['distance'] is None else f'{result["distance"]:.2f}'


def _encode(images: Tensor) -> str:
    """(N, 1, 28, 28) in [0, 1] side by side, as a PNG in base64."""
    strip = images.nan_to_num().mul(255).round().byte().squeeze(1).permute(1, 0, 2).flatten(1)
    return base64.b64encode(cv2.imencode('.png', strip.numpy())[1]).decode()


def table(results: list[dict], args: argparse.Namespace, digits: Digits, real: float) -> str:
    """The table as Markdown.

    Args:
        results: Runs, each with its key and result.
        args: The command line.
        digits: The data.
        real: Distance of the test digits.
    """
    lines = [
        "Frechet distance on LeNet's features (not FID) between training digits and as many "
        f'generated ones after {args.steps:,} steps, width {args.width}, learning rate '
        f'{args.lr:g}; mean ± standard deviation and best of {args.runs} runs. Replaced: '
        f'{args.replace}.',
        f'Data: {digits.description}',
        '',
        '| activation | mean | best |',
        '|---|---:|---:|',
        f'| (test digits) | {real:.2f} | |',
    ]
    for name in args.activations:
        acts = act_cfgs(name, args.replace)
        own = [r['distance'] for r in results if r['act_cfgs'] == acts]
        values = [value for value in own if value is not None]
        shown = [format_mean(values), f'{min(values):.2f}'] if values else ['not finite', '']
        if values and len(values) < len(own):
            shown[0] += f' ({len(own) - len(values)} not finite)'
        lines.append(f'| {name} | {shown[0]} | {shown[1]} |')
    return '\n'.join(lines) + '\n'


def draw(results: list[dict], args: argparse.Namespace, digits: Digits) -> None:
    """Draws a row of digits of each activation's first run, below one of training digits.

    Args:
        results: Runs, each with its key and result.
        args: The command line.
        digits: The data.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    order = torch.randperm(len(digits.train_images), generator=torch.Generator().manual_seed(0))
    rows = {'training digits': _encode(digits.train_images[order[:SHOWN]])}
    for name in args.activations:
        acts = act_cfgs(name, args.replace)
        result = next(r for r in results if r['act_cfgs'] == acts)
        rows[f'{name}: {_number(result)}'] = result['picture']
    figure, axes = plt.subplots(len(rows), figsize=(10, 0.72 * len(rows)))
    for axis, (label, png) in zip(axes, rows.items(), strict=True):
        strip = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_GRAYSCALE)
        axis.imshow(strip, cmap='gray_r')
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha='right', va='center')
    figure.tight_layout(pad=0.4)
    figure.savefig(args.picture, dpi=110, bbox_inches='tight')
    plt.close(figure)


if __name__ == '__main__':
    main()
