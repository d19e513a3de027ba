#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model of MMDetection, MMSegmentation or MMPose from a config and a checkpoint."""

import argparse
import inspect

from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, METRICS

from mmact.cli import (
    UserError,
    add_common_arguments,
    build_runner,
    check_data,
    load_config,
    one_line_errors,
)


def parse_args() -> argparse.Namespace:
    """Parses the command line; the flags are those of MMDetection's tools/test.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to a pickle file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='write pictures of the predictions to this folder')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between pictures with --show'
    )
    parser.add_argument(
        '--tta', action='store_true', help="average over the config's test-time augmentations"
    )
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end with .pkl or .pickle, got {args.out}')
    return args


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Turns the codebase's visualization hook on; its arguments differ between the codebases."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError('--show and --show-dir need default_hooks.visualization in the config')
    takes = inspect.signature(HOOKS.get(f'{cfg.default_scope}.{hook.type}')).parameters
    hook['draw' if 'draw' in takes else 'enable'] = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir is not None:
        folder = next((name for name in ('test_out_dir', 'out_dir') if name in takes), None)
        if folder is not None:
            hook[folder] = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Wraps the model into the config's tta_model and reads images through its tta_pipeline."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise UserError(
                f'--tta needs {key} in the config; mmdet::retinanet/retinanet_tta.py shows one'
            )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def main() -> None:
    """Builds everything, with one-line errors for mistakes, then tests."""
    args = parse_args()
    with one_line_errors():
        cfg = load_config(args)
    with one_line_errors(cfg):
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir is not None:
            enable_visualization(cfg, args)
        if args.tta:
            enable_tta(cfg)
        runner = build_runner(cfg)
        check_data(cfg, 'test_dataloader', 'test_evaluator')
        metrics = runner.test_loop.evaluator.metrics  # builds the data set
        if args.out is not None:
            dump = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
            metrics.append(METRICS.build(dict(type=dump, out_file_path=args.out)))
    runner.test()


if __name__ == '__main__':
    main()
