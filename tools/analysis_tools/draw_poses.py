#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the skeletons that a top-down pose model finds on the pictures of the validation data."""

import argparse
import sys
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, MODELS, VISUALIZERS
from mmengine.runner import load_checkpoint
from mmengine.utils import track_iter_progress

from mmact.cli import UserError, check_data, load_config, one_line_errors


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the skeletons that a top-down model of MMPose finds on pictures of the '
        'validation data, in the boxes that the data set gives (in COCO a detector found them).'
    )
    parser.add_argument('config', help='config of model and data')
    parser.add_argument('checkpoint', help='checkpoint of the model')
    parser.add_argument(
        '--out', type=Path, default=Path('poses.png'), help='picture (default: poses.png)'
    )
    parser.add_argument('--num', type=int, default=6, help='number of pictures (default: 6)')
    parser.add_argument(
        '--height', type=int, default=480, help='height of each in pixels (default: 480)'
    )
    parser.add_argument(
        '--box-thr', type=float, default=0.5, help='least score of a box (default: 0.5)'
    )
    parser.add_argument(
        '--kpt-thr', type=float, default=0.3, help='least score of a key point (default: 0.3)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value ...'
    )
    parser.add_argument('--device', default='cpu', help='where the model runs (default: cpu)')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    """Draws, with one-line errors for mistakes."""
    args = parse_args()
    with one_line_errors():
        for flag, value in (('--num', args.num), ('--height', args.height)):
            if value < 1:
                raise UserError(f'{flag} must be at least 1, got {value}')
        if not Path(args.checkpoint).is_file():
            raise UserError(f'checkpoint {args.checkpoint} does not exist')
        config = load_config(args)
        if config.get('default_scope') != 'mmpose':
            raise UserError(f'{args.config} is not a config of MMPose')
    with one_line_errors(config):
        check_data(config, 'val_dataloader')
        draw(args, config)
    print(args.out)


def draw(args: argparse.Namespace, config: Config) -> None:
    """Runs the model and writes one picture with all of them side by side."""
    model = MODELS.build(config.model)
    load_checkpoint(model, args.checkpoint, map_location='cpu', logger='current')
    model.to(args.device).eval()
    dataset = DATASETS.build(config.val_dataloader.dataset)
    visualizer = VISUALIZERS.build(
        {**config.visualizer, 'vis_backends': None, 'radius': 4, 'line_width': 3}
    )
    visualizer.set_dataset_meta(dataset.metainfo)
    people = [dataset.get_data_info(i) for i in range(len(dataset))]
    order = sorted(
        (i for i, person in enumerate(people) if person['bbox_score'].max() >= args.box_thr),
        key=lambda i: people[i]['img_path'],
    )
    groups = [list(group) for _, group in groupby(order, key=lambda i: people[i]['img_path'])]
    if not groups:
        raise UserError(f'no box of the validation data has a score of --box-thr {args.box_thr}')
    # Evenly spaced ones, whatever stands at the beginning.
    chosen = (
        np.linspace(0, len(groups) - 1, min(args.num, len(groups))).round().astype(int).tolist()
    )
    pictures = [
        skeletons(args, model, [dataset[i] for i in groups[j]], visualizer)
        for j in track_iter_progress(chosen, file=sys.stderr)
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), side_by_side(pictures))


@torch.no_grad()
def skeletons(
    args: argparse.Namespace, model: torch.nn.Module, people: list[dict], visualizer: object
) -> np.ndarray:
    """One picture of height ``args.height`` with the skeletons of its people, (H, W, 3) BGR."""
    from mmpose.structures import merge_data_samples

    found = merge_data_samples(
        model.val_step({key: [person[key] for person in people] for key in people[0]})
    )
    image = cv2.imread(found.img_path)
    # Lines and joints have sizes in pixels, so the picture is enlarged before they are drawn.
    scale = args.height / image.shape[0]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found.pred_instances.keypoints *= scale
    found.pred_instances.bboxes *= scale
    return visualizer.add_datasample(
        'poses', image[..., ::-1], found, draw_gt=False, draw_bbox=True, kpt_thr=args.kpt_thr
    )[..., ::-1]


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """A grid of pictures of equal height, each as wide as the widest."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in pictures]
    columns = int(np.ceil(np.sqrt(len(padded))))
    padded += [np.zeros_like(padded[0])] * (-len(padded) % columns)
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return np.vstack(rows)


if __name__ == '__main__':
    main()
