# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The networks of the Dynamic ReLU paper's tables, what it prints about them, and the counter."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmact.activations import Activation
from mmact.registry import MODELS


class Counts(NamedTuple):
    """Numbers in millions.

    Args:
        params: Parameters.
        madds: Multiply-adds.
        elements: Elements that pass through mmact's activations.
    """

    params: float
    madds: float
    elements: float = 0.0


#: Table 5, (static, DY-ReLU-B): MobileNetV2 by width multiplier, MobileNetV3 and ResNet by name.
PAPER_IMAGENET = {
    1.0: (Counts(3.5, 300.0), Counts(7.5, 315.5)),
    0.75: (Counts(2.6, 209.0), Counts(5.0, 221.7)),
    0.5: (Counts(2.0, 97.0), Counts(3.1, 104.5)),
    0.35: (Counts(1.7, 59.2), Counts(2.7, 65.0)),
    'large': (Counts(5.4, 219.0), Counts(9.8, 230.5)),
    'small_early': (Counts(2.9, 66.0), Counts(4.0, 68.7)),
}
PAPER_RESNET = {
    50: (Counts(23.5, 3800.0), Counts(27.6, 3920.0)),
    34: (Counts(21.3, 3600.0), Counts(25.2, 3710.0)),
    18: (Counts(11.1, 1810.0), Counts(12.8, 1860.0)),
    10: (Counts(5.2, 890.0), Counts(6.3, 910.0)),
}
#: K = 3, Tables 6 and 11.
PAPER_K3 = {1.0: Counts(9.2, 322.8), 0.35: Counts(3.1, 67.8)}
#: MobileNetV2 x0.35 by R, Table 8.
PAPER_REDUCTION = {
    64: Counts(2.0, 64.3),
    32: Counts(2.1, 64.4),
    16: Counts(2.3, 64.6),
    8: Counts(2.7, 65.0),
    4: Counts(3.6, 65.9),
}
#: MobileNetV2 x0.35 by position, Table 8: top-1 accuracy.
PAPER_POSITIONS = {
    ('A1',): 64.2,
    ('A2',): 65.3,
    ('A3',): 62.7,
    ('A1', 'A2'): 66.2,
    ('A1', 'A3'): 64.5,
    ('A2', 'A3'): 65.9,
    ('A1', 'A2', 'A3'): 66.4,
}
#: Table 10, (static, DY-ReLU-C), by backbone.
PAPER_COCO = {
    1.0: (Counts(3.4, 993.7), Counts(9.0, 1026.9)),
    0.5: (Counts(1.9, 794.8), Counts(4.6, 820.3)),
    'large': (Counts(4.1, 896.4), Counts(10.1, 926.6)),
    'small_early': (Counts(2.1, 726.9), Counts(4.8, 747.9)),
}

POSITIONS = ('stem', 'A1', 'A2', 'A3', 'last')


def name(kind: float | str) -> str:
    """Name of a MobileNet: by its width multiplier (V2) or its ``arch`` (V3)."""
    if not isinstance(kind, str):
        return f'MobileNetV2 x{kind}'
    return {
        'large': 'MobileNetV3-Large',
        'small_early': 'MobileNetV3-Small, early',
        'small': 'MobileNetV3-Small, released',
    }[kind]


class Classifier(nn.Module):
    """A backbone, average pooling and the linear layers of an ImageNet classifier.

    Args:
        backbone: The backbone.
        widths: Channels of its output, units of hidden layers, number of classes.
    """

    def __init__(self, backbone: nn.Module, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        layers: list[nn.Module] = []
        for i, o in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(i, o), nn.Hardswish()]
        self.fc = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, classes)."""
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


class PoseEstimator(nn.Module):
    """A backbone and the key-point head.

    Args:
        backbone: The backbone.
        head: The head.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 17, H / 4, W / 4)."""
        return self.head(self.backbone(x))


def mobilenet(kind: float | str, **kwargs) -> nn.Module:
    """A MobileNetV2 (by its width multiplier) or MobileNetV3 (by its ``arch``)."""
    if isinstance(kind, str):
        return MODELS.build(dict(type='mmact.MobileNetV3', arch=kind, **kwargs))
    return MODELS.build(dict(type='mmact.MobileNetV2', widen_factor=kind, **kwargs))


def classifier(kind: float | str, **kwargs) -> Classifier:
    """An ImageNet classifier on a MobileNet.

    Table 5 counts the early MobileNetV3-Small without squeeze-and-excitation after the last
    convolution.
    """
    if kind == 'small_early' and 'act_cfg' not in kwargs:
        kwargs = {'se': 'blocks', **kwargs}
    backbone = mobilenet(kind, **kwargs)
    hidden = {'large': (1280,), 'small_early': (1280,), 'small': (1024,)}.get(kind, ())
    return Classifier(backbone, (backbone.out_channels, *hidden, 1000))


def pose_estimator(kind: float | str, backbone: dict, head: dict) -> PoseEstimator:
    """A MobileNet and the head with 17 heat maps; arguments of each."""
    net = mobilenet(kind, **backbone)
    cfg = dict(type='mmact.InvertedResidualHeatmapHead', in_channels=net.out_channels)
    return PoseEstimator(net, MODELS.build(dict(cfg, out_channels=17, **head)))


def resnet(depth: int, **kwargs) -> Classifier:
    """An ImageNet classifier on a ResNet, whose Bottlenecks have their stride in the 1x1."""
    backbone = MODELS.get('mmact.ResNet')(depth, style='caffe', **kwargs)
    return Classifier(backbone, (2048 if depth == 50 else 512, 1000))


def parameters(model: nn.Module) -> float:
    """Parameters of a model, in millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


class UpsamplingCounter(TorchFunctionMode):
    """Counts two multiply-adds for each element that F.interpolate makes.

    torch's counter sees the operation in pieces where torch has loaded a decomposition of it.
    """

    madds = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = func(*args, **(kwargs or {}))
        if func is F.interpolate:
            self.madds += 2 * result.numel()
        return result


def count(model: nn.Module, size: tuple[int, int] = (224, 224)) -> Counts:
    """Counts a model, in evaluation mode, by the convention that the page states.

    Args:
        model: Made on the ``meta`` device, where nothing is computed. Its normalisations are taken
            out.
        size: Height and width of the image.

    Returns:
        The counts.
    """
    params = parameters(model)
    elements = 0

    def add(module: Any, inputs: Any, output: Any):
        nonlocal elements
        elements += output.numel()

    for module in list(model.modules()):
        if isinstance(module, Activation):
            module.register_forward_hook(add)
        for label, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):  # not counted, and slow where nothing is computed
                setattr(module, label, nn.Identity())
    # PyTorch counts two operations for each multiply-add.
    counter, upsampling = FlopCounterMode(display=False), UpsamplingCounter()
    with torch.no_grad(), counter, upsampling:
        model.eval()(torch.empty(1, 3, *size, device='meta'))
    madds = counter.get_total_flops() // 2 + upsampling.madds
    return Counts(params, madds / 1e6, elements / 1e6)


def dyrelu(variant: str = 'B', K: int = 2, reduction: int = 8) -> dict:
    """Arguments of a MobileNet, ResNet or head with DyReLU."""
    return dict(act_cfg=dict(type=f'DyReLU{variant}', K=K, reduction=reduction))
