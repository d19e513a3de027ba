# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the experiments share: the network, its training, and results that survive the process."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import mmcv.cnn  # noqa: F401  registers MMCV's activations
import torch
from _digits import Digits
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmact.activations import Maxout

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

    Shape:
        Input (B, 1, 28, 28); output (B, 10), the logits.
    """

    def __init__(self, act_cfg: dict, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.act_cfg = dict(act_cfg)
        self.widths = tuple(widths)
        blocks, channels = [], 1
        for width, kernel in zip(self.widths, KERNELS, strict=True):
            blocks.append(_block(channels, width, kernel, act_cfg))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, 10)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def forward(self, x: Tensor) -> Tensor:
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
) -> bool:
    """Trains with cross-entropy.

    Args:
        net: The network; (B, 1, 28, 28) to (B, 10).
        digits: The data.
        optimizer: Of the network's parameters.
        steps: Indices of the training images of each step.
        after_step: Called with the number of steps done, after each.

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
        after_step(number)
    return True


class Journal:
    """Results of single runs in a file of JSON lines, to which each run is added as it ends.

    A result is found by its key: all that it depends on. So a command that was killed continues
    where it was, and one with more runs, activations or settings computes only what is new.

    Args:
        path: The file; created with its folder when the first result is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, dict] = {}
        self._cut_off = False
        if path.exists():
            text = path.read_text()
            self._cut_off = bool(text) and not text.endswith('\n')
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    self._results[_canonical(entry['key'])] = entry['result']
                except (json.JSONDecodeError, KeyError, TypeError):
                    # What a process leaves that was killed while it wrote.
                    print(f'{path}: a line that is not a whole result is ignored', file=sys.stderr)

    def get(self, key: dict) -> dict | None:
        """The result of a run, or None if it was not run yet."""
        return self._results.get(_canonical(key))

    def add(self, key: dict, result: dict) -> None:
        """Adds a result; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open('a') as file:
            if self._cut_off:
                file.write('\n')
                self._cut_off = False
            file.write(json.dumps({'key': key, 'result': result}) + '\n')
            file.flush()
            os.fsync(file.fileno())
        self._results[_canonical(key)] = result


def _canonical(key: dict) -> str:
    return json.dumps(key, sort_keys=True)


class Progress:
    """Prints a line a run: how many of how many are done, and the time left.

    Args:
        total: Runs of the whole table.
        done: Runs whose results are there already.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.already = total, done, done
        self.start = time.monotonic()
        if done:
            print(f'{done} of {total} runs are there already', flush=True)

    def step(self, text: str) -> None:
        """Says that one more run is done.

        Args:
            text: What was run, and its result.
        """
        self.done += 1
        per_run = (time.monotonic() - self.start) / (self.done - self.already)
        left = round(per_run * (self.total - self.done))
        width = len(str(self.total))
        print(
            f'[{self.done:{width}}/{self.total}] {text}; {left // 60} min {left % 60:02d} s left',
            flush=True,
        )


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None instead of the latter for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


def format_mean(values: Sequence[float]) -> str:
    """'97.05 ± 0.12', or the value alone if there is one."""
    center, spread = mean_and_std(values)
    return f'{center:.2f}' + ('' if spread is None else f' ± {spread:.2f}')


def positive(kind: type) -> Callable[[str], float]:
    """An argparse type: a finite number above 0 of the given kind."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float('inf'):
            raise argparse.ArgumentTypeError(f'{text!r} is not a positive {kind.__name__}')
        return value

    return convert


def check_activations(act_cfgs: dict[str, dict]) -> None:
    """Runs a network with each activation once, so that a mistake shows before any training.

    Args:
        act_cfgs: Name to ``act_cfg``.

    Raises:
        Exception: Whatever building or running the activation raises.
    """
    for act_cfg in act_cfgs.values():
        MNISTConv(act_cfg)(torch.zeros(2, 1, 28, 28))
