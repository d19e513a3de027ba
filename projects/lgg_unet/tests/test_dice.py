# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The Dice metric against counting by hand, alone and over two processes."""

import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.registry import METRICS, init_default_scope

pytest.importorskip('scipy')

from projects.lgg_unet import DiceMetric

META = dict(classes=('background', 'lesion'))


def _sample(volume: str, number: int, predicted: np.ndarray, truth: np.ndarray) -> dict:
    return dict(
        img_path=f'/data/{volume}/{volume}_{number}.tif',
        pred_sem_seg=dict(data=torch.from_numpy(predicted)[None].long()),
        gt_sem_seg=dict(data=torch.from_numpy(truth)[None].to(torch.uint8)),
    )


def _random_samples(sizes: dict[str, int], shape=(9, 7)) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        _sample(name, n, rng.random(shape) < 0.4, rng.random(shape) < 0.3)
        for name, count in sizes.items()
        for n in range(1, count + 1)
    ]


def _evaluate(samples: list[dict], **options) -> dict[str, float]:
    metric = DiceMetric(**options)
    metric.dataset_meta = META
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def _by_hand(samples: list[dict]) -> dict[str, float]:
    sums: dict[str, np.ndarray] = {}
    for sample in samples:
        p, t = (sample[key]['data'].numpy() == 1 for key in ('pred_sem_seg', 'gt_sem_seg'))
        name = sample['img_path'].split('/')[2]
        sums[name] = sums.get(name, 0) + np.array([(p & t).sum(), p.sum() + t.sum()])
    return {name: 200 * both / total for name, (both, total) in sums.items()}


def test_mean_and_median_over_volumes():
    samples = _random_samples(dict(a=3, b=1, c=6))
    values = _evaluate(samples[::-1], largest_component=False)
    scores = list(_by_hand(samples).values())
    assert values == pytest.approx(dict(DSC=np.mean(scores), DSC_median=np.median(scores)))


def test_it_is_not_mmsegmentations_mdice():
    pytest.importorskip('mmseg')
    from mmseg.evaluation import IoUMetric

    # A large lesion found, a small one missed.
    large, small = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    large[:6] = True
    small[0, :2] = True
    samples = [_sample('a', 1, large, large), _sample('b', 1, ~large & small, small)]
    theirs = IoUMetric(iou_metrics=['mDice'])
    theirs.dataset_meta = META
    theirs.process({}, samples)
    assert theirs.evaluate(2)['mDice'] > 97
    assert _evaluate(samples)['DSC'] == 50


@pytest.mark.parametrize(
    ('predicted', 'truth', 'score'), [(0, 0, 100), (1, 0, 0), (0, 1, 0), (1, 1, 100)]
)
def test_empty_volumes(predicted, truth, score):
    masks = [np.zeros((4, 4), bool) for _ in range(2)]
    for mask, filled in zip(masks, (predicted, truth), strict=True):
        mask[1:3] = filled
    assert _evaluate([_sample('a', 1, *masks)])['DSC'] == score


def test_only_the_largest_component_counts():
    blank = np.zeros((6, 6), bool)
    lesion, corner = blank.copy(), blank.copy()
    lesion[:3, :3] = True
    corner[5, 4:] = True
    # The corner's pixels touch nothing in the slice between; the lesion goes on through all three.
    samples = [
        _sample('a', n, lesion | (corner if n != 10 else blank), lesion) for n in (9, 10, 11)
    ]
    assert _evaluate(samples)['DSC'] == 100
    assert _evaluate(samples, largest_component=False)['DSC'] == pytest.approx(200 * 27 / (54 + 4))


def test_slices_are_stacked_by_number():
    one, two = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0, 0] = True
    two[3, 3] = True
    # 2 and 10 have one pixel, 9 and 11 another: by number, 9 to 11 do not hang together with 2 or
    # each other except that 2's neighbour 3 has it too.
    masks = {2: one, 3: one, 9: two, 10: one, 11: two}
    samples = [_sample('a', n, mask, mask) for n, mask in masks.items()]
    assert _evaluate(samples)['DSC'] == pytest.approx(200 * 2 / (2 + 5))


def test_ignored_pixels_and_other_class():
    truth = np.array([[1, 1, 0, 255]], np.uint8)
    predicted = np.array([[1, 0, 0, 1]], np.uint8)
    assert _evaluate([_sample('a', 1, predicted, truth)])['DSC'] == pytest.approx(200 / 3)
    background = _evaluate([_sample('a', 1, predicted, truth)], class_index=0)
    assert background['DSC'] == pytest.approx(200 / 3)


def test_builds_from_config():
    init_default_scope('mmseg')
    metric = METRICS.build(dict(type='mmact.DiceMetric', prefix='val'))
    metric.process({}, [_sample('a', 1, np.ones((2, 2)), np.ones((2, 2)))])
    assert metric.evaluate(1) == {'val/DSC': 100, 'val/DSC_median': 100}


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    # As DefaultSampler deals: in turn, and the first one again to make the shares equal.
    samples = _random_samples(dict(a=3, b=1, c=3))
    metric = DiceMetric()
    for sample in [*samples, samples[0]][rank::2]:
        metric.process({}, [sample])
    torch.save(metric.evaluate(len(samples)), f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_figure_of_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # Forked: starting Python and importing torch twice would take longer than all other tests.
    mp.start_processes(_rank, (port, str(tmp_path)), nprocs=2, start_method='fork')
    expected = _evaluate(_random_samples(dict(a=3, b=1, c=3)))
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pt', weights_only=True) == expected
