# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Normalisation of slices by the statistics of the volume that they belong to."""

from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform

from mmact.registry import TRANSFORMS


@TRANSFORMS.register_module()
class NormalizeVolume(BaseTransform):
    """Standardises a slice by the grey values of its whole volume, as Buda et al. do.

    MRI has no unit: scanners differ in gain. Values are clipped to two percentiles of the volume,
    taken over all channels, then each channel gets mean 0 and standard deviation 1 over the volume.

    A volume is a folder: all of its pictures with the slice's file ending, masks left out. A
    volume's statistics are computed when its first slice is loaded, and kept by each worker of the
    data loader; ``persistent_workers=True`` keeps them over epochs.

    Required keys: ``img_path`` and ``img`` (H, W, 3), as LoadImageFromFile gives it (BGR).
    Modified key: ``img``, float32. The model's preprocessor must not normalise again.

    Args:
        percentiles: Lower and upper one, in percent.
        mask_suffix: End of the names, without the ending, of files that are not slices.
    """

    def __init__(
        self, percentiles: tuple[float, float] = (10, 99), mask_suffix: str = '_mask'
    ) -> None:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(
                f'NormalizeVolume: percentiles must be 0 <= low < high <= 100, got {percentiles}'
            )
        self.percentiles = (low, high)
        self.mask_suffix = mask_suffix
        self._statistics: dict[Path, tuple[np.ndarray, ...]] = {}

    def transform(self, results: dict) -> dict:
        """Normalises ``results['img']``."""
        path = Path(results['img_path'])
        if path.parent not in self._statistics:
            self._statistics[path.parent] = self._measure(path)
        low, high, mean, std = self._statistics[path.parent]
        image = np.clip(results['img'].astype(np.float32), low, high)
        results['img'] = (image - mean) / std
        return results

    def _measure(self, path: Path) -> tuple[np.ndarray, ...]:
        slices = [
            mmcv.imread(other)
            for other in sorted(path.parent.glob(f'*{path.suffix}'))
            if not other.stem.endswith(self.mask_suffix)
        ]
        volume = np.concatenate([picture.reshape(-1, picture.shape[-1]) for picture in slices])
        low, high = np.percentile(volume, self.percentiles)
        volume = np.clip(volume, low, high)
        std = volume.std(0)
        # A channel without contrast becomes 0 everywhere.
        statistics = low, high, volume.mean(0), np.where(std > 0, std, 1)
        return tuple(np.float32(value) for value in statistics)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(percentiles={self.percentiles}, '
            f'mask_suffix={self.mask_suffix!r})'
        )
