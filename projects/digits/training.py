# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The networks of the experiments and their training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import mmcv.cnn  # noqa: F401  registers MMCV's activations
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmact.activations import Maxout

from .data import Digits

KERNELS = (5, 5, 3)
WIDTHS = (10, 20, 40)


class MNISTConv(nn.Module):
    """MNIST-Conv of the AReLU paper (sections 4.1 and 4.2, appendix A).

    Three blocks of convolution, 2 x 2 max pooling and activation, and one linear layer. Its sizes
    stand in a picture of the paper; they are those of the authors' program: kernels of 5, 5 and 3
    without padding, 10, 20 and 40 filters, 40 features for 10 classes.

    Args:
        act_cfg: ``dict(type=..., ...)`` of any registered activation. For Maxout the convolutions
            before it have k times the filters, so that it puts out ``widths`` channels.
        widths: Output channels of the three blocks.
        classes: Outputs of the linear layer.

    Shape:
        Input (B, 1, 28, 28); output (B, classes), the logits.
    """

    def __init__(self, act_cfg: dict, widths: Sequence[int] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        self.act_cfg = dict(act_cfg)
        self.widths = tuple(widths)
        blocks, channels = [], 1
        for width, kernel in zip(self.widths, KERNELS, strict=True):
            blocks.append(_block(channels, width, kernel, act_cfg))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, classes)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        return self.fc(self.blocks(x).flatten(1))

    @property
    def convs(self) -> list[nn.Conv2d]:
        """The three convolutions, first to last."""
        return [block.conv for block in self.blocks]

    @property
    def activations(self) -> list[nn.Module]:
        """The three activations, first to last."""
        return [block.act for block in self.blocks]

    def activation_parameters(self) -> list[nn.Parameter]:
        """Learnable parameters of the activations."""
        return [p for activation in self.activations for p in activation.parameters()]


class PlainNet(nn.Sequential):
    """A network of convolutions, poolings, linear layers and activations, one after another.

    Args:
        layers: ``(channels, kernel, padding)`` of a convolution, ``(features,)`` of a linear
            layer, before the first of which maps are flattened, ``'act'``, and ``'pool'``, of 2 x 2
            maxima.
        act_cfg: ``dict(type=..., ...)`` of any registered activation that keeps the number of
            channels.

    Shape:
        Input (B, 1, 28, 28), which gets 2 zeros on each side; output (B, 10), the logits.
    """

    def __init__(self, layers: Sequence[tuple | str], act_cfg: dict) -> None:
        super().__init__()
        self.append(nn.ZeroPad2d(2))
        width, flat = 1, False
        for layer in layers:
            if layer == 'act':
                with torch.random.fork_rng(devices=[]):
                    self.append(MODELS.build(dict(act_cfg)))
            elif layer == 'pool':
                self.append(nn.MaxPool2d(2))
            elif len(layer) == 3:
                channels, kernel, padding = layer
                self.append(nn.Conv2d(width, channels, kernel, padding=padding))
                width = channels
            else:
                if not flat:
                    self.append(nn.Flatten())  # of maps of one pixel
                flat = True
                self.append(nn.Linear(width, layer[0]))
                width = layer[0]
        self.to(memory_format=torch.channels_last)

    @property
    def activations(self) -> list[nn.Module]:
        """The activations, first to last."""
        kinds = (nn.ZeroPad2d, nn.MaxPool2d, nn.Conv2d, nn.Linear, nn.Flatten)
        return [layer for layer in self if not isinstance(layer, kinds)]


def lenet(act_cfg: dict) -> PlainNet:
    """LeNet of the PAU paper (Table 7)."""
    convs = [(6, 5, 0), 'act', 'pool', (16, 5, 0), 'act', 'pool', (120, 5, 0), 'act']
    return PlainNet([*convs, (84,), 'act', (10,)], act_cfg)


def vgg8(act_cfg: dict, width: int = 64) -> PlainNet:
    """VGG-8 of the PAU paper (Table 7): of two convolutions in a row, one has an activation.

    Args:
        act_cfg: Of its five activations.
        width: Channels of the first convolution, 64 in the paper.
    """
    layers: list[tuple | str] = []
    for factor, number in ((1, 1), (2, 1), (4, 2), (8, 2), (8, 2)):
        layers += [*[(factor * width, 3, 1)] * number, 'act', 'pool']
    return PlainNet([*layers, (10,)], act_cfg)


def _block(in_channels: int, out_channels: int, kernel: int, act_cfg: dict) -> nn.Sequential:
    # An activation with random initial values must not change those of the layers: with the same
    # seed all activations start from the same weights.
    with torch.random.fork_rng(devices=[]):
        activation = MODELS.build(dict(act_cfg))
    if isinstance(activation, Maxout):
        out_channels *= activation.k
    block = nn.Sequential(OrderedDict(conv=nn.Conv2d(in_channels, out_channels, kernel)))
    block.add_module('pool', nn.MaxPool2d(2))
    with torch.random.fork_rng(devices=[]):
        block.add_module('act', activation)  # here it learns its number of channels
    return block


def num_parameters(parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter]) -> int:
    """Sum of the sizes."""
    return sum(p.numel() for p in parameters)


def batches(num_images: int, num_samples: int, batch_size: int, seed: int) -> Sequence[Tensor]:
    """Indices of the images of each step.

    Args:
        num_images: Images that there are.
        num_samples: Images to show, in passes over all of them, each pass in a new random order.
        batch_size: Images a step; the last step has what is left.
        seed: Of the order.

    Returns:
        One int64 tensor of indices a step.
    """
    generator = torch.Generator().manual_seed(seed)
    passes = -(-num_samples // num_images)
    order = [torch.randperm(num_images, generator=generator) for _ in range(passes)]
    return torch.cat(order)[:num_samples].split(batch_size)


def accuracy(net: nn.Module, digits: Digits) -> float:
    """Accuracy in % on the test set. Leaves the network in the mode it was in."""
    training = net.training
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in zip(
            digits.test_images.split(500), digits.test_labels.split(500), strict=True
        ):
            images = images.contiguous(memory_format=torch.channels_last)
            correct += int((net(images).argmax(1) == labels).sum())
    net.train(training)
    return 100 * correct / len(digits.test_labels)


def train(
    net: nn.Module,
    digits: Digits,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[Tensor],
    after_step: Callable[[int], None] = lambda step: None,
    losses: list[float] | None = None,
) -> bool:
    """Trains with cross-entropy.

    Args:
        net: The network; (B, 1, 28, 28) to (B, 10).
        digits: The data.
        optimizer: Of the network's parameters.
        steps: Indices of the training images of each step.
        after_step: Called with the number of steps done, after each.
        losses: Gets the loss of each step, before ``after_step`` is called.

    Returns:
        Whether the loss stayed finite; training stops at the first step at which it is not.
    """
    net.train()
    for number, indices in enumerate(steps, start=1):
        images = digits.train_images[indices].contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(images), digits.train_labels[indices])
        if not torch.isfinite(loss):
            return False
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if losses is not None:
            losses.append(loss.item())
        after_step(number)
    return True


def check_activations(act_cfgs: dict[str, dict]) -> None:
    """Runs a network with each activation once, so that a mistake shows before any training.

    Args:
        act_cfgs: Name to ``act_cfg``.

    Raises:
        Exception: Whatever building or running the activation raises.
    """
    for act_cfg in act_cfgs.values():
        MNISTConv(act_cfg)(torch.zeros(2, 1, 28, 28))
