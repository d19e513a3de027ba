# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The backbones.

Those of the PAU paper have the numbers of parameters and activations that it gives (appendix
A.4.2); the AReLU paper gives none, and its networks follow the papers that it cites.

Where a network of ImageNet divides 224 pixels by 32, most of these divide 32 by 8: their stem is a
convolution of 3 x 3 and stride 1, without pooling. SqueezeNet keeps its first pooling, MobileNet
four of its five strides. Input is (B, 3, 32, 32), output a tuple of one map (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.models.backbones import DenseNet, ResNet_CIFAR, ShuffleNetV2
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn

from mmact.models.backbones import MobileNetV2
from mmact.registry import MODELS


def conv_norm(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size, but for its stride, and BatchNorm."""
    padding = kernel // 2
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def conv_norm_act(*args: int, **kwargs: int) -> list[nn.Module]:
    """The same with ReLU behind it."""
    return [*conv_norm(*args, **kwargs), nn.ReLU()]


class Backbone(nn.Sequential):
    """Layers one after another.

    Shape:
        Input (B, 3, H, W); output a tuple of one (B, C, h, w), as MMPretrain's necks take it.
    """

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Applies the layers to x."""
        return (super().forward(x),)


@MODELS.register_module()
class CIFARVGG8(Backbone):
    """VGG with one convolution in each of five stages; 512 channels (PAU paper)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        widths = (3, 64, 128, 256, 512, 512)
        for width, channels in zip(widths[:-1], widths[1:], strict=True):
            conv = nn.Conv2d(width, channels, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers)


class Residual(nn.Module):
    """A branch beside a shortcut.

    Args:
        branch: The layers.
        shortcut: Those beside it.
    """

    def __init__(self, branch: Sequence[nn.Module], shortcut: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Returns their sum."""
        return self.branch(x) + self.shortcut(x)


@MODELS.register_module()
class CIFARMobileNetV2(Backbone):
    """MobileNetV2 with 1280 channels (PAU paper).

    To have its 2,296,922 parameters with 10 classes, the first block has a 1 x 1 convolution though
    it does not expand, and where a block of stride 1 changes the width, its shortcut has one.
    """

    def __init__(self) -> None:
        layers = conv_norm_act(3, 32, 3)
        width = 32
        for number, (expansion, channels, blocks, first) in enumerate(MobileNetV2.arch_settings):
            strides = [1 if number == 1 else first, *[1] * (blocks - 1)]  # fewer pixels to halve
            for stride in strides:
                inner = expansion * width
                branch = [
                    *conv_norm_act(width, inner, 1),
                    *conv_norm_act(inner, inner, 3, stride, groups=inner),
                    *conv_norm(inner, channels, 1),
                ]
                shortcut = conv_norm(width, channels, 1) if width != channels else []
                layers += [Residual(branch, shortcut)] if stride == 1 else branch
                width = channels
        super().__init__(*layers, *conv_norm_act(width, 1280, 1))


@MODELS.register_module()
class CIFARDenseNet121(DenseNet):
    """DenseNet-121 whose stem is one 3 x 3 convolution; 1024 channels (PAU paper)."""

    def __init__(self) -> None:
        super().__init__('121')
        self.stem = nn.Conv2d(3, self.init_channels, 3, padding=1, bias=False)


class SEBasicBlock(BasicBlock):
    """A residual block with squeeze and excitation behind its second norm."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # What stands there in MMPretrain's block.
        self.drop_path = nn.Sequential(SELayer(self.out_channels), self.drop_path)


@MODELS.register_module()
class CIFARSEResNet18(ResNet_CIFAR):
    """SEResNet-18 with 512 channels (AReLU paper)."""

    arch_settings = {18: (SEBasicBlock, (2, 2, 2, 2))}

    def __init__(self) -> None:
        super().__init__(18)


@MODELS.register_module()
class CIFARShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 x1 with 1024 channels (AReLU paper)."""

    def __init__(self) -> None:
        super().__init__(out_indices=(3,))
        self.conv1.conv.stride = (1, 1)
        self.maxpool = nn.Identity()


class Fire(nn.Module):
    """SqueezeNet's module, with BatchNorm.

    Args:
        in_channels: Of the input.
        squeezed: After the first convolution.
        channels: Of the output: half from a 1 x 1, half from a 3 x 3 convolution.
    """

    def __init__(self, in_channels: int, squeezed: int, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(*conv_norm_act(in_channels, squeezed, 1))
        self.expand = nn.ModuleList(
            nn.Sequential(*conv_norm_act(squeezed, channels // 2, kernel)) for kernel in (1, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Applies the module to x."""
        x = self.squeeze(x)
        return torch.cat([expand(x) for expand in self.expand], 1)


@MODELS.register_module()
class CIFARSqueezeNet(Backbone):
    """SqueezeNet 1.0 with BatchNorm, up to its last convolution: 512 channels (AReLU paper)."""

    def __init__(self) -> None:
        super().__init__(
            *conv_norm_act(3, 96, 3),
            nn.MaxPool2d(2),
            Fire(96, 16, 128),
            Fire(128, 16, 128),
            Fire(128, 32, 256),
            nn.MaxPool2d(2),
            Fire(256, 32, 256),
            Fire(256, 48, 384),
            Fire(384, 48, 384),
            Fire(384, 64, 512),
            nn.MaxPool2d(2),
            Fire(512, 64, 512),
        )


@MODELS.register_module()
class CIFARMobileNet(Backbone):
    """MobileNet with 1024 channels (AReLU paper)."""

    #: Channels and stride of a depthwise convolution with a pointwise one behind it.
    STAGES = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self) -> None:
        layers, width = conv_norm_act(3, 32, 3), 32
        for channels, stride in self.STAGES:
            layers += conv_norm_act(width, width, 3, stride, groups=width)
            layers += conv_norm_act(width, channels, 1)
            width = channels
        super().__init__(*layers)
