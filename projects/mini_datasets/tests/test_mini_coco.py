# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Miniature COCO as pycocotools, MMDetection and MMPose read it."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from projects.mini_datasets.coco import (
    CATEGORY_IDS,
    KEYPOINTS,
    THINGS,
    annotate,
    polygons,
    run_lengths,
)
from projects.mini_datasets.scene import draw_scene

SPLITS = ('train', 'val')
DETECTIONS = 'person_detection_results/COCO_val2017_detections_AP_H_56_person.json'


def _load(root, name, split='val'):
    return COCO(str(root / 'annotations' / f'{name}_{split}2017.json'))


def _decode(segmentation, height, width):
    encoded = mask_api.frPyObjects(segmentation, height, width)
    return mask_api.decode(mask_api.merge(encoded) if isinstance(encoded, list) else encoded)


def test_polygons_and_run_lengths_decode_to_the_same_mask():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(1, 14, 2)
        mask = (rng.random((height, width)) < rng.uniform(0.2, 0.95)).astype(np.uint8)
        if mask.any():
            np.testing.assert_array_equal(_decode(polygons(mask), height, width), mask)
        np.testing.assert_array_equal(_decode(run_lengths(mask), height, width), mask)


def test_a_hole_cuts_the_outline_in_two():
    mask = np.ones((7, 9), np.uint8)
    mask[2:5, 3:6] = 0
    assert len(polygons(mask)) == 2
    np.testing.assert_array_equal(_decode(polygons(mask), 7, 9), mask)
    assert polygons(np.ones((2, 3), np.uint8)) == [[0, 0, 0, 2, 3, 2, 3, 0]]


def test_annotated_mask_is_the_drawn_one():
    size = (96, 130)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, size, ('park', 'street'), THINGS, crowd=True)
        for index, region in enumerate(scene.regions):
            if region.name in THINGS:
                annotation = annotate(scene, index, 1, 1)
                decoded = _decode(annotation['segmentation'], *size)
                np.testing.assert_array_equal(decoded, scene.owner == index)


@pytest.mark.parametrize('split', SPLITS)
def test_instances(coco_root, split):
    coco = _load(coco_root, 'instances', split)
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == {'train': 14, 'val': 8}[split]
    for image in images:
        picture = cv2.imread(str(coco_root / f'{split}2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
    annotations = coco.loadAnns(coco.getAnnIds())
    for annotation in annotations:
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert annotation['area'] == mask.sum() > 0
        assert isinstance(annotation['segmentation'], dict if annotation['iscrowd'] else list)
    crowds = [annotation for annotation in annotations if annotation['iscrowd']]
    assert {crowd['category_id'] for crowd in crowds} == {1}
    assert len(crowds) >= 2
    assert any(annotation['area'] < 32**2 for annotation in annotations)
    assert any(annotation['area'] > 32**2 for annotation in annotations)
    assert {annotation['category_id'] for annotation in annotations} == {1, 3, 13, 37, 38}
    # No pixel belongs to two objects.
    for image in images:
        masks = [
            coco.annToMask(annotation)
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image['id']))
        ]
        assert np.sum(masks, 0).max() == 1


def test_ids_are_unique_over_both_splits(coco_root):
    train, val = (_load(coco_root, 'instances', split) for split in SPLITS)
    assert not set(train.imgs) & set(val.imgs)
    assert not set(train.anns) & set(val.anns)
    for coco in (train, val):
        assert len(coco.anns) == len(coco.dataset['annotations'])
    assert train.imgs[1]['file_name'] == '000000000001.jpg'


def test_categories(coco_root):
    coco = _load(coco_root, 'instances')
    assert len(coco.cats) == 80
    assert [coco.cats[i]['name'] for i in (1, 3, 11, 13, 25, 27, 37, 67, 90)] == [
        'person',
        'car',
        'fire hydrant',
        'stop sign',
        'giraffe',
        'backpack',
        'sports ball',
        'dining table',
        'toothbrush',
    ]
    assert coco.cats[38]['supercategory'] == 'sports'
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(coco.cats)


@pytest.mark.parametrize('split', SPLITS)
def test_keypoints(coco_root, split):
    coco, instances = (_load(coco_root, name, split) for name in ('person_keypoints', 'instances'))
    assert list(coco.cats) == [1]
    assert coco.cats[1]['keypoints'] == KEYPOINTS
    assert set(coco.imgs) == set(instances.imgs)
    assert set(coco.anns) == set(instances.getAnnIds(catIds=1))
    seen = set()
    for annotation in coco.anns.values():
        assert {key: annotation[key] for key in ('segmentation', 'bbox', 'area')} == {
            key: instances.anns[annotation['id']][key] for key in ('segmentation', 'bbox', 'area')
        }
        x, y, visible = np.array(annotation['keypoints']).reshape(17, 3).T
        assert annotation['num_keypoints'] == (visible > 0).sum()
        if annotation['iscrowd']:
            assert not visible.any()
            continue
        image = coco.imgs[annotation['image_id']]
        for place, extent in ((x, image['width']), (y, image['height'])):
            assert set(place) <= set(range(extent))
            assert not place[visible == 0].any()
        mask = coco.annToMask(annotation)
        assert mask[y[visible == 2], x[visible == 2]].all()
        seen |= set(visible.tolist())
    assert seen == {0, 1, 2}


def test_detected_people(coco_root):
    coco = _load(coco_root, 'person_keypoints')
    detections = json.loads((coco_root / DETECTIONS).read_text())
    boxes = {
        image_id: [
            annotation['bbox']
            for annotation in coco.loadAnns(coco.getAnnIds(image_id, iscrowd=False))
        ]
        for image_id in coco.imgs
    }
    found = {image_id: [] for image_id in coco.imgs}
    for detection in detections:
        assert detection['category_id'] == 1
        assert 0 < detection['score'] <= 1
        found[detection['image_id']].append(detection)
    false = 0
    for image_id, truth in boxes.items():
        sure = [detection['bbox'] for detection in found[image_id] if detection['score'] > 0.5]
        assert len(sure) == len(truth)
        overlaps = mask_api.iou(np.array(sure), np.array(truth), [0] * len(truth))
        assert (overlaps.max(0) > 0.75).all()
        false += len(found[image_id]) - len(truth)
    assert false > 0


@pytest.mark.parametrize('metric', ['bbox', 'segm', 'keypoints'])
def test_perfect_detections_score_one(coco_root, metric):
    coco = _load(coco_root, 'person_keypoints' if metric == 'keypoints' else 'instances')
    keys = ('image_id', 'category_id', 'bbox', 'segmentation', 'keypoints')
    results = [
        {**{key: annotation[key] for key in keys if key in annotation}, 'score': 0.5}
        for annotation in coco.anns.values()
        if not annotation['iscrowd']
    ]
    if metric != 'keypoints':
        crowd = next(annotation for annotation in coco.anns.values() if annotation['iscrowd'])
        mask = coco.annToMask(crowd)
        mask[:, : int(crowd['bbox'][0] + crowd['bbox'][2] / 2)] = 0
        inside = mask_api.encode(np.asfortranarray(mask))
        results.append(
            {
                'image_id': crowd['image_id'],
                'category_id': 1,
                'score': 0.9,
                'bbox': mask_api.toBbox(inside).tolist(),
                'segmentation': inside,
            }
        )
    for result in results:
        # COCO takes run lengths as a detected mask; boxes must not be computed from them.
        if metric != 'segm':
            del result['segmentation']
        elif isinstance(result['segmentation'], list):
            image = coco.imgs[result['image_id']]
            result['segmentation'] = mask_api.merge(
                mask_api.frPyObjects(result['segmentation'], image['height'], image['width'])
            )
            del result['bbox']
    evaluation = COCOeval(coco, coco.loadRes(results), metric)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_mmdetection_reads_it(coco_root):
    pytest.importorskip('mmdet', reason='MMDetection is not installed')
    from mmdet.datasets import CocoDataset

    coco = _load(coco_root, 'instances', 'train')
    dataset = CocoDataset(
        data_root=str(coco_root),
        ann_file='annotations/instances_train2017.json',
        data_prefix={'img': 'train2017/'},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        pipeline=[
            {'type': 'LoadImageFromFile'},
            {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
        ],
    )
    assert len(dataset) == 14
    assert dataset.cat_ids == sorted(CATEGORY_IDS.values())
    assert [dataset.cat2label[i] for i in (1, 3, 37, 90)] == [0, 2, 32, 79]
    assert dataset.metainfo['classes'] == tuple(CATEGORY_IDS)
    crowds = 0
    for item in dataset:
        annotations = coco.loadAnns(coco.getAnnIds(item['img_id']))
        assert item['gt_bboxes_labels'].tolist() == [
            dataset.cat2label[annotation['category_id']] for annotation in annotations
        ]
        assert item['gt_ignore_flags'].tolist() == [
            bool(annotation['iscrowd']) for annotation in annotations
        ]
        for mask, annotation in zip(item['gt_masks'].masks, annotations, strict=True):
            if annotation['iscrowd']:
                crowds += 1
            else:
                np.testing.assert_array_equal(mask, coco.annToMask(annotation))
    assert crowds >= 2


def test_mmpose_reads_it(coco_root):
    pytest.importorskip('mmpose', reason='MMPose is not installed')
    from mmpose.datasets import CocoDataset

    people = [
        annotation
        for annotation in _load(coco_root, 'person_keypoints').anns.values()
        if not annotation['iscrowd']
    ]
    arguments = {
        'data_root': str(coco_root),
        'data_prefix': {'img': 'val2017/'},
        'ann_file': 'annotations/person_keypoints_val2017.json',
        'test_mode': True,
    }
    dataset = CocoDataset(**arguments)
    assert len(dataset) == len(people)
    names = dataset.metainfo['keypoint_id2name']
    assert [names[i] for i in range(17)] == KEYPOINTS
    joints = np.array(people[0]['keypoints']).reshape(17, 3)
    np.testing.assert_array_equal(dataset.get_data_info(0)['keypoints'][0], joints[:, :2])
    detected = CocoDataset(bbox_file=str(coco_root / DETECTIONS), **arguments)
    assert len(detected) == len(json.loads((coco_root / DETECTIONS).read_text()))
