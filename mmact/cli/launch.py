# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""From a command line to a runner whose model, data and optimizer are built and checked."""

import argparse
import difflib
import os
import os.path as osp
import re
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, RUNNERS, Registry, init_default_scope
from mmengine.runner import Runner

from ..activations import unresolved
from ..engine.hooks import ActivationRegularizerHook, LearnedActivationHook, PWLURealignHook
from .errors import UserError, missing_data


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that training and testing share; they are MMDetection's."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config, as key.of.it=value; lists as key="[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # torch.distributed.launch passes it in either spelling.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config and merges the common flags into it.

    Args:
        args: Has ``config``, ``work_dir`` and what :func:`add_common_arguments` adds.

    Returns:
        The config, with ``work_dir`` and ``launcher`` set.

    Raises:
        UserError: If the file or the codebase that it is written for is missing.
    """
    if not osp.isfile(args.config):
        raise UserError(f'config {args.config} does not exist.{_closest_config(args.config)}')
    try:
        cfg = Config.fromfile(args.config)
    except SyntaxError as error:
        raise UserError(f'config {args.config}, or one that it inherits: {error}') from error
    except ModuleNotFoundError as error:
        # What MMEngine raises for `_base_ = 'mmpose::...'`.
        if match := re.match(r'(\S+) is not installed', str(error)):
            raise UserError(_not_installed(match[1])) from error
        raise
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', Path(args.config).stem)
    scope = cfg.get('default_scope') or 'mmengine'
    if find_spec(scope) is None:
        raise UserError(_not_installed(scope))
    init_default_scope(scope)
    return cfg


def _not_installed(codebase: str) -> str:
    remedy = ''
    if codebase == 'mmpose':  # the plain `pip install mmpose` fails
        remedy = (
            '. `make setup` installs it; in an environment of your own: '
            'pip install --no-build-isolation --no-deps -r requirements/pose.txt'
        )
    return f'this config is written for {codebase}, which is not installed{remedy}'


def _closest_config(path: str) -> str:
    folder = next(p for p in Path(path).absolute().parents if p.is_dir())
    # Deeper only inside a folder of configs: any other might be a home directory.
    names = {p.name: p for p in folder.glob('**/*.py' if 'configs' in folder.parts else '*.py')}
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    return f' Did you mean {osp.relpath(names[close[0]])}?' if close else ''


def build_runner(cfg: Config) -> Runner:
    """Builds the runner, and with it model and hooks.

    On a machine without a GPU, distributed runs use gloo, and SyncBN, which has no CPU kernel,
    stays BN.

    Args:
        cfg: The complete config.

    Raises:
        UserError: If the checkpoint to load is missing, or an activation of the model does not know
            its number of channels.
    """
    checkpoint = cfg.get('load_from')
    if checkpoint is not None and '://' not in checkpoint and not osp.isfile(checkpoint):
        raise UserError(f'checkpoint {checkpoint} does not exist')
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _init_gloo(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    missing = unresolved(runner.model)
    if missing:
        path, module = missing[0]
        raise UserError(
            f'{len(missing)} activations do not know their number of channels, the first is '
            f'{type(module).__name__} at {path!r}: no convolution, linear or normalisation layer '
            f'stands before it. Pass num_channels=... in its act_cfg'
        )
    return runner


def _init_gloo(cfg: Config) -> None:
    if cfg.launcher == 'slurm':
        nodes = os.environ['SLURM_NODELIST']
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], check=True, capture_output=True, text=True
        ).stdout.split()
        os.environ.setdefault('MASTER_ADDR', hosts[0])
        os.environ.setdefault('MASTER_PORT', '29500')
        for name, slurm_name in dict(
            RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID'
        ).items():
            os.environ[name] = os.environ[f'SLURM_{slurm_name}']
    elif cfg.launcher == 'mpi':
        raise UserError('--launcher mpi needs GPUs; on a machine without, use pytorch or slurm')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    if cfg.get('sync_bn') is not None:
        warnings.warn('no GPU: BatchNorm is not synchronised over processes', stacklevel=2)
        cfg.sync_bn = None
    # MMEngine's default wrapper puts the model on GPU number LOCAL_RANK.
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        device_ids=None,
    )


def prepare_training(runner: Runner) -> None:
    """Builds what ``runner.train()`` would build first, so that mistakes in it show before.

    Args:
        runner: From :func:`build_runner`.

    Raises:
        UserError: If a folder of images is missing.
        ValueError: If a hook of mmact's cannot do its work in this training.
    """
    schedulers = runner.cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        _check_type(scheduler, PARAM_SCHEDULERS)
    _check_type(runner.cfg.optim_wrapper.get('optimizer', {}), OPTIMIZERS)
    _check_images(runner.train_loop.dataloader.dataset, runner.cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.val_loop is not None:
        _check_images(runner.val_loop.dataloader.dataset, runner.cfg)
    for hook in runner.hooks:
        if isinstance(hook, (ActivationRegularizerHook, LearnedActivationHook, PWLURealignHook)):
            hook.check(runner)


def _check_type(cfg: dict, registry: Registry) -> None:
    """For what MMEngine builds only after training has begun, or without a message."""
    kind = cfg.get('type')
    with registry.switch_scope_and_registry(None) as current:
        if isinstance(kind, str) and current.get(kind) is None:
            raise KeyError(f'{kind} is not in the {current.scope}::{current.name} registry')


def prepare_test(runner: Runner) -> None:
    """Builds what ``runner.test()`` would build first, so that mistakes in it show before.

    Args:
        runner: From :func:`build_runner`.

    Raises:
        UserError: If a folder of images is missing.
    """
    _check_images(runner.test_loop.dataloader.dataset, runner.cfg)


def _check_images(dataset: torch.utils.data.Dataset, cfg: Config) -> None:
    """Annotations are read when a data set is built, images only when a worker needs them."""
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            _check_images(inner, cfg)
    for folder in (getattr(dataset, 'data_prefix', None) or {}).values():
        if isinstance(folder, str) and folder and '://' not in folder and not osp.exists(folder):
            raise UserError(missing_data(folder, cfg))
