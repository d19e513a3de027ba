#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a model of MMDetection, MMSegmentation or MMPose from a config."""

import argparse
import logging

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from mmact.cli import (
    UserError,
    add_common_arguments,
    build_runner,
    load_config,
    one_line_errors,
    prepare_training,
    resume_exactly,
)
from mmact.data_checks import failures_in_one_line


def parse_args() -> argparse.Namespace:
    """Parses the command line; the flags are those of MMDetection's tools/train.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help="resume from this checkpoint, or from the work folder's latest one if none is given",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def apply_training_flags(cfg: Config, args: argparse.Namespace) -> None:
    """Merges --amp, --auto-scale-lr and --resume into the config."""
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is None:
        return
    cfg.resume = True
    cfg.load_from = None
    if args.resume != 'auto':
        cfg.load_from = args.resume
    elif find_latest_checkpoint(cfg.work_dir) is None:
        print_log(
            f'nothing to resume in {cfg.work_dir}: training starts from the beginning',
            logger='current',
            level=logging.WARNING,
        )


def main() -> None:
    """Builds everything, with one-line errors for mistakes, then trains, with one for bad data."""
    args = parse_args()
    with one_line_errors():
        cfg = load_config(args)
    with one_line_errors(cfg):
        apply_training_flags(cfg, args)
        resume_exactly(cfg)
        runner = build_runner(cfg)
        prepare_training(runner)
    with failures_in_one_line(runner):
        runner.train()


if __name__ == '__main__':
    main()
