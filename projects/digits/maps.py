# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what ReLU and AReLU do to the feature maps of digits.

Figure 1 (right) and Figure 5 of the AReLU paper (sections 3.2 and 4.3). maps.png has the maps of
one test digit before an activation (after the pooling) and after it, and between them the factor of
each element, which for AReLU is its attention, one for the positive elements and one for the
negative, plus ReLU's 1 or 0. cam.png has Grad-CAM of the first test digit of each class: maps of a
layer summed with the mean gradients of the class's logit, and their positive part. The paper shows
the first layer of ResNet-18 on CIFAR-100; here it is MNIST-Conv, trained with SGD, momentum 0.9 and
a learning rate of 0.01 in batches of 128. The rest of Figure 1 is a drawing without data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import data_parser, positive
from .training import MNISTConv, accuracy, batches, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ('ReLU', 'AReLU')
SHOWN = 10


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = data_parser(__doc__)
    parser.add_argument(
        '--layer', type=int, choices=(1, 2, 3), default=1, help='of the three (default: 1)'
    )
    parser.add_argument(
        '--digit', type=int, choices=range(10), default=3, help='in maps.png (default: 3)'
    )
    parser.add_argument(
        '--samples',
        type=positive(int),
        default=60000,
        help='images shown in a training, in passes over the training set (default: 60000)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/maps'),
        help='folder of the pictures (default: work_dirs/maps)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains both networks and writes the pictures."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        digits = load_digits(args.data)
        args.out.mkdir(parents=True, exist_ok=True)
    nets = {name: trained(name, digits, args.samples) for name in ACTIVATIONS}
    for name, net in nets.items():
        print(f'{name}: {accuracy(net, digits):.2f} % of the test digits')
    images = torch.stack([digits.test_images[digits.test_labels == c][0] for c in range(10)])
    for name, figure in (
        ('maps', draw_maps(nets, images[args.digit], args.layer)),
        ('cam', draw_cam(nets, images, args.layer)),
    ):
        figure.savefig(args.out / f'{name}.png', dpi=110)
        print('written:', args.out / f'{name}.png')


def trained(name: str, digits: Digits, samples: int) -> MNISTConv:
    """Returns MNIST-Conv, trained with seed 0, in evaluation mode.

    Args:
        name: The activation.
        digits: The data.
        samples: Images to show.
    """
    torch.manual_seed(0)
    net = MNISTConv(dict(type=name))
    steps = batches(len(digits.train_labels), samples, 128, seed=0)
    train(net, digits, torch.optim.SGD(net.parameters(), 0.01, 0.9), steps)
    return net.eval()


def grad_cam(net: MNISTConv, images: Tensor, labels: Tensor, layer: int) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, section 3) of the output of an activation.

    Args:
        net: The network.
        images: (B, 1, 28, 28).
        labels: The classes whose logits are looked at, (B,) int64.
        layer: 1 to 3.

    Returns:
        (B, 28, 28), at least 0, enlarged from the maps' size (bilinear).
    """
    maps = net.blocks[:layer](images).detach().requires_grad_()
    logits = net.fc(net.blocks[layer:](maps).flatten(1))
    (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
    weights = gradient.mean((2, 3), keepdim=True)
    cam = (weights * maps.detach()).sum(1, keepdim=True).relu()
    return F.interpolate(cam, size=(28, 28), mode='bilinear').squeeze(1)


def draw_maps(nets: dict[str, MNISTConv], image: Tensor, layer: int) -> Figure:
    """Draws the maps of one digit before and after an activation, and the factor of each element.

    Args:
        nets: Networks by the name of their activation.
        image: The digit, (1, 28, 28).
        layer: 1 to 3; its first ten channels are drawn.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout='constrained')
    parts = figure.subfigures(len(nets), 1, squeeze=False).flatten()
    for part, (name, net) in zip(parts, nets.items(), strict=True):
        with torch.no_grad():
            block = net.blocks[layer - 1]
            before = block.pool(block.conv(net.blocks[: layer - 1](image[None])))[0]
            after = block.act(before[None])[0]
        part.suptitle(f'{name}, layer {layer}')
        rows = {'before': before, 'factor': after / before, 'after': after}
        panels = part.subplots(3, 1 + SHOWN)
        largest = float(max(before[:SHOWN].abs().max(), after[:SHOWN].abs().max()))
        for line, (label, maps) in zip(panels, rows.items(), strict=True):
            style = dict(cmap='RdBu_r', vmin=-largest, vmax=largest)
            if label == 'factor':
                style = dict(cmap='viridis', vmin=0, vmax=2)
            for axes, values in zip(line[1:], maps, strict=False):
                shown = axes.imshow(values.numpy(), **style)
            line[1].set_ylabel(label)
            part.colorbar(shown, ax=list(line), fraction=0.015, pad=0.01)
        panels[0, 0].imshow(image[0].numpy(), cmap='gray')
        for axes in panels.flatten():
            axes.set(xticks=[], yticks=[])
        for axes in panels[1:, 0]:
            axes.set_axis_off()
    return figure


def draw_cam(nets: dict[str, MNISTConv], images: Tensor, layer: int) -> Figure:
    """Draws Grad-CAM of a digit of each class over the digits, each from 0 to its largest.

    Args:
        nets: Networks by the name of their activation.
        images: A digit of each class in turn, (10, 1, 28, 28).
        layer: 1 to 3.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout='constrained')
    figure.suptitle(f"Grad-CAM of the digit's class, layer {layer}")
    panels = figure.subplots(1 + len(nets), 10)
    for line, name in zip(panels, ('digit', *nets), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image[0].numpy(), cmap='gray')
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
        if name in nets:
            cams = grad_cam(nets[name], images, torch.arange(10), layer)
            for axes, cam in zip(line, cams, strict=True):
                axes.imshow(cam.numpy(), cmap='jet', alpha=0.6, vmin=0)
    return figure


if __name__ == '__main__':
    main()
