# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs for the dry run: the caller's, or made to fit the model."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_SIZE, _IMAGENET, _LARGE = 256, 224, 640


@dataclass(frozen=True)
class Run:
    """A way to run a model.

    Args:
        name: Its name in messages.
        training: Whether the model is to be in training mode.
        run: Runs the model and returns its outputs.
    """

    name: str
    training: bool
    run: Callable[[], Any]


def runs(model: nn.Module, example: Any) -> tuple[list[Run], bool]:
    """The ways to run a model, and whether the first that works is enough.

    Args:
        model: Any module.
        example: An argument of :func:`mmact.convert`.

    Raises:
        TypeError: If the example is of another type.
    """
    shape = None
    if isinstance(example, Sequence) and example and all(isinstance(n, int) for n in example):
        if len(example) < 2:
            raise ValueError(f'convert: example must have two sizes or more, got {example!r}')
        shape, example = tuple(example), None
        if len(shape) == 2:
            shape = (1, 3, *shape)
    if example is not None:
        call = _call(model, example)
        return [Run('the example', False, call), Run('the example', True, call)], False
    codebase = _codebase(model)
    if codebase:
        # Trackers and others that are made of several models do not run as one.
        named = [(part, _codebase(part)) for part in model.children()]
        parts = [(part, name) for part, name in named if name]
        ways = _openmmlab(model, codebase, shape)
        return ways + [way for part, name in parts for way in _openmmlab(part, name, shape)], False
    if shape is not None:
        image = _random(model, shape)
        call = _call(model, image)
        return [Run(f'an input of {shape}', mode, call) for mode in (False, True)], False
    return _guesses(model), True


def _codebase(model: nn.Module) -> str | None:
    """The codebase that a whole model is of; None for parts of models, and all others."""
    names = [base.__module__.partition('.')[0] for base in type(model).__mro__]
    found = next((name for name in names if name in _SAMPLES), None)
    return found if hasattr(model, 'data_preprocessor') else None


def _call(model: nn.Module, example: Any) -> Callable[[], Any]:
    if isinstance(example, Tensor):
        return lambda: model(example)
    if isinstance(example, Mapping):
        return lambda: model(**example)
    if isinstance(example, (tuple, list)):
        return lambda: model(*example)
    if callable(example):
        return lambda: example(model)
    raise TypeError(
        f'convert: example must be a tensor, the arguments of the model (tuple or dict), the shape '
        f'of an input, or a function of the model that runs it; got {type(example).__name__}'
    )


def _random(model: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tuple(shape), generator=generator).to(like.device, like.dtype)


def _guesses(model: nn.Module) -> list[Run]:
    """Images for a backbone, feature maps for a neck or a head."""
    channels = getattr(model, 'in_channels', None)
    if isinstance(channels, (list, tuple)):
        sizes = [max(_SIZE // 4 >> i, 4) for i in range(len(channels))]
        maps = [_random(model, (1, c, s, s)) for c, s in zip(channels, sizes, strict=True)]
        return [Run('feature maps', False, lambda: model(tuple(maps)))]
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    found = []
    if isinstance(first, nn.Conv2d):
        # A stem sees images, all others see what a backbone makes of them.
        width = channels if isinstance(channels, int) else first.in_channels
        squares = _sizes(model, _SIZE, _IMAGENET) if width == 3 else [(32, 32)]
        images = [_random(model, (1, width, *square)) for square in squares]
        image = images[0]
        levels = [_random(model, (1, width, s, s)) for s in (32, 16, 8, 4, 2)]
        found = [
            *(Run(f'an input of {tuple(x.shape)}', False, partial(model, x)) for x in images),
            Run('five feature maps', False, lambda: model(tuple(levels))),
            Run('a feature map', False, lambda: model((image,))),
        ]
    elif first is not None:
        vectors = _random(model, (2, first.in_features))
        found = [Run(f'an input of {tuple(vectors.shape)}', False, lambda: model(vectors))]
    return found


def _image_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) that a model says it is made for; None if it says nothing."""
    decoder = getattr(getattr(model, 'head', None), 'decoder', None)
    size = getattr(decoder, 'input_size', None)  # MMPose's, (width, height)
    if size is not None:
        return int(size[1]), int(size[0])
    timm = getattr(model, 'pretrained_cfg', None)
    if isinstance(timm, Mapping) and timm.get('fixed_input_size'):
        return tuple(timm['input_size'][-2:])
    # The model, its backbone, or their embedding of patches.
    for module in model.modules():
        for name in ('img_size', 'image_size'):
            size = getattr(module, name, None)
            pair = (size, size) if isinstance(size, int) else size
            if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(pair):
                return int(pair[0]), int(pair[1])
    return None


def _sizes(model: nn.Module, *usual: int) -> list[tuple[int, int]]:
    """Sizes of images to try, of which the first that works is taken."""
    size = _image_size(model)
    return [*([] if size is None else [size]), *((side, side) for side in usual)]


def _openmmlab(model: nn.Module, codebase: str, shape: tuple[int, ...] | None) -> list[Run]:
    # Classifiers may be made for 224 without saying so; deep pyramids have kernels, or numbers of
    # proposals, that a small image is too small for.
    usual = (_IMAGENET, _SIZE) if codebase == 'mmpretrain' else (_SIZE, _LARGE)
    shapes = [(1, 3, *size) for size in _sizes(model, *usual)] if shape is None else [shape]

    def once(mode: str, shape: tuple[int, ...]) -> Any:
        image = _random(model, shape)
        # New samples each time: heads write into them.
        samples = [_SAMPLES[codebase](model, shape[-2:], image.device) for _ in image]
        return model(image, samples, mode=mode)

    def run(*modes: str) -> Callable[[], Any]:
        def tried() -> Any:
            first = None
            for way in itertools.product(modes, shapes):
                try:
                    return once(*way)
                except Exception as error:  # whatever a model raises on a made-up input
                    first = first or error
            assert first is not None
            raise first

        return tried

    # Some have no mode of plain tensors: DETR's relatives, for which a head needs the samples.
    return [
        Run(f"mode='loss' on {shapes[0]}", True, run('loss')),
        Run(f"mode='tensor' on {shapes[0]}", False, run('tensor', 'predict')),
    ]


def _metainfo(size: Sequence[int]) -> dict[str, Any]:
    height, width = size
    return dict(
        img_shape=(height, width),
        ori_shape=(height, width),
        pad_shape=(height, width),
        batch_input_shape=(height, width),
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        img_id=0,
    )


def _detection(model: nn.Module, size: Sequence[int], device: torch.device) -> Any:
    structures = importlib.import_module('mmdet.structures')
    masks = importlib.import_module('mmdet.structures.mask')
    data = importlib.import_module('mmengine.structures')
    height, width = size
    sample = structures.DetDataSample(metainfo=_metainfo(size))
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.4, 0.3, 0.9, 0.9]], device=device)
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    labels = torch.zeros(2, dtype=torch.long, device=device)
    sample.gt_instances = data.InstanceData(bboxes=boxes, labels=labels)
    sample.proposals = data.InstanceData(bboxes=boxes, scores=boxes.new_ones(2))  # Fast R-CNN
    if any('mask' in name for name, _ in model.named_modules()):
        # Assigners of others take the centres of masks for those of boxes where there are masks.
        bitmaps = torch.zeros(2, height, width, dtype=torch.uint8)
        for bitmap, (left, top, right, bottom) in zip(bitmaps, boxes.int().tolist(), strict=True):
            bitmap[top:bottom, left:right] = 1
        sample.gt_instances.masks = masks.BitmapMasks(bitmaps.numpy(), height, width)
    sample.ignored_instances = data.InstanceData(
        bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long, device=device)
    )
    semantic = torch.zeros(1, height, width, dtype=torch.long, device=device)
    sample.gt_sem_seg = data.PixelData(sem_seg=semantic)
    return sample


def _segmentation(model: nn.Module, size: Sequence[int], device: torch.device) -> Any:
    structures = importlib.import_module('mmseg.structures')
    data = importlib.import_module('mmengine.structures')
    sample = structures.SegDataSample(metainfo=_metainfo(size))
    labels = torch.zeros(1, *size, dtype=torch.long, device=device)
    sample.gt_sem_seg = data.PixelData(data=labels)
    sample.gt_edge_map = data.PixelData(data=labels.clone())
    return sample


def _classification(model: nn.Module, size: Sequence[int], device: torch.device) -> Any:
    structures = importlib.import_module('mmpretrain.structures')
    label = torch.zeros(1, dtype=torch.long, device=device)
    return structures.DataSample(metainfo=_metainfo(size)).set_gt_label(label)


def _pose(model: nn.Module, size: Sequence[int], device: torch.device) -> Any:
    """A person whose key points the head's own codec encodes."""
    numpy = importlib.import_module('numpy')
    formatting = importlib.import_module('mmpose.datasets.transforms')
    height, width = size
    head = getattr(model, 'head', None)
    codec = getattr(head, 'decoder', None)
    number = next(
        n
        for n in (*(getattr(head, a, None) for a in _KEYPOINTS), 17)
        if isinstance(n, int) and not isinstance(n, bool)
    )
    points = numpy.random.default_rng(0).uniform(0.2, 0.8, (1, number, 2)) * (width, height)
    person = dict(
        img=numpy.zeros((height, width, 3), numpy.uint8),
        img_shape=(height, width),
        bbox=numpy.array([[0, 0, width, height]], numpy.float32),
        bbox_scale=numpy.array([[width, height]], numpy.float32),
        bbox_score=numpy.ones(1, numpy.float32),
        bboxes=numpy.array([[0, 0, width, height]], numpy.float32),
        area=numpy.array([width * height], numpy.float32),
        category_id=[1],
        keypoints=points.astype(numpy.float32),
        keypoints_visible=numpy.ones((1, number), numpy.float32),
    )
    if codec is not None:
        # Codecs see the four corners of a box.
        corners = [0, 0, width, 0, width, height, 0, height]
        known = {**person, 'bbox': numpy.array([corners], numpy.float32)}
        more = {key: known[key] for key in codec.auxiliary_encode_keys if key in known}
        shown = {key: person[key] for key in ('keypoints', 'keypoints_visible')}
        person.update(codec.encode(**shown, **more))
        if isinstance(person.get('heatmaps'), numpy.ndarray):
            person['heatmap_mask'] = numpy.ones(person['heatmaps'].shape[-2:], numpy.float32)
        for name in ('field', 'instance', 'label'):
            table = getattr(codec, f'{name}_mapping_table', None)
            if table:
                person[f'{name}_mapping_table'] = table
    sample = formatting.PackPoseInputs(meta_keys=())(person)['data_samples']
    sample.set_metainfo(dict(**_metainfo(size), input_size=(width, height)))
    return sample.to(device)


#: Where heads of MMPose have the number of their key points.
_KEYPOINTS = ('num_keypoints', 'num_joints', 'out_channels')

_SAMPLES: dict[str, Callable[[nn.Module, Sequence[int], torch.device], Any]] = {
    'mmdet': _detection,
    'mmseg': _segmentation,
    'mmpretrain': _classification,
    'mmpose': _pose,
}
