# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The Dice similarity coefficient of a lesion, patient by patient."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from scipy import ndimage

from mmact.registry import METRICS


@METRICS.register_module()
class DiceMetric(BaseMetric):
    r"""Mean over volumes of the Dice similarity coefficient (DSC) of one class.

    For each volume, over the pixels of all its slices,
    :math:`DSC = 2 |P \cap T| / (|P| + |T|)`, P being the pixels predicted as the class and T those
    that are it. MMSegmentation's ``IoUMetric(iou_metrics=['mDice'])`` gives another figure: it
    pools the pixels of all patients, so that large lesions count more, and averages over the
    classes, background included.

    A volume is a folder of slices: what ``img_path`` says up to the file's name. In a volume
    without the class, the DSC is 1 if it is not predicted either and 0 otherwise.

    Buda et al.'s public implementation, which the AReLU paper follows, keeps only the largest
    connected component of P (3-D, neighbours share a face). Slices are then stacked in the order of
    the number at the end of their names.

    Values are in percent. ``DSC`` is the mean and ``DSC_median`` the median over volumes; the log
    has each volume's.

    Args:
        class_index: Label of the class.
        largest_component: Whether to drop all predicted components but the largest.
        ignore_index: Label of pixels that are not counted.
        collect_device: 'cpu' or 'gpu', where the ranks' results are gathered.
        prefix: Put before the names of the values, with a slash.
    """

    def __init__(
        self,
        class_index: int = 1,
        largest_component: bool = True,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.class_index = class_index
        self.largest_component = largest_component
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps the masks of a batch, a bit for each pixel.

        Args:
            data_batch: Not used.
            data_samples: Have ``img_path``, and ``pred_sem_seg`` and ``gt_sem_seg`` with labels
                (1, H, W) in ``data``.
        """
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'].squeeze(0)
            truth = sample['gt_sem_seg']['data'].squeeze(0).to(predicted.device)
            counted = truth != self.ignore_index
            masks = torch.stack([predicted == self.class_index, truth == self.class_index])
            bits = np.packbits((masks & counted).cpu().numpy())
            self.results.append((sample['img_path'], tuple(truth.shape), bits))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes ``DSC`` and ``DSC_median`` in percent from the slices of all ranks."""
        volumes = defaultdict(list)
        for path, shape, bits in results:
            masks = np.unpackbits(bits, count=2 * shape[0] * shape[1]).reshape(2, *shape)
            volumes[Path(path).parent].append((_number(path), masks))
        scores = {}
        for volume, slices in sorted(volumes.items()):
            slices.sort(key=lambda item: item[0])
            predicted, truth = np.stack([masks for _, masks in slices], axis=1).astype(bool)
            if self.largest_component:
                predicted = _largest_component(predicted)
            scores[volume.name] = 100 * dice(predicted, truth)
        for name, score in scores.items():
            print_log(f'DSC {name}: {score:.2f}', logger='current')
        values = list(scores.values())
        return dict(DSC=float(np.mean(values)), DSC_median=float(np.median(values)))


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity coefficient of two boolean arrays of one shape; 1 if both are empty."""
    total = predicted.sum() + truth.sum()
    return float(2 * (predicted & truth).sum() / total) if total else 1.0


def _largest_component(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    return components == 1 + np.argmax(np.bincount(components.ravel())[1:])


def _number(path: str) -> tuple[int, str]:
    stem = Path(path).stem
    digits = re.search(r'\d+$', stem)
    return (int(digits.group()) if digits else 0), stem
