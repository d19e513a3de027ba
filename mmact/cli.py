# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The common part of the tools: from a command line to a runner, checked before work is lost.

Until training starts, an exception means a wrong config or command line, so the user gets one line
that says what to change. The environment variable ``MMACT_TRACEBACK=1`` shows the traceback.
"""

import argparse
import atexit
import copy
import difflib
import inspect
import logging
import os
import os.path as osp
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import (
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNERS,
    DefaultScope,
    Registry,
    init_default_scope,
    root,
)
from mmengine.runner import Runner

from .activations import ChannelActivation, unresolved
from .activations.base import ChannelsError
from .checkpoints import CheckpointError, load_weights_only
from .data_checks import annotation_trouble, class_trouble, work_dir_trouble
from .engine.hooks._unwrapped import unwrapped
from .registry import INSTALL

load_weights_only()  # in all tools


class UserError(Exception):
    """A wrong config or command line; the text says what to change."""


@contextmanager
def one_line_errors(cfg: Config | None = None) -> Iterator[None]:
    """Ends the program with one line on stderr and status 2 if the block raises.

    Args:
        cfg: The config in use, to name the keys that have to be changed.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get('MMACT_TRACEBACK', '0') != '0':
            raise
        print(f'error: {_explain(error, cfg)}', file=sys.stderr)
        sys.exit(2)


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
        UserError: If the file, a module of its custom_imports or its codebase is missing.
    """
    path = Path(args.config)
    if not path.is_file():
        close = difflib.get_close_matches(path.name, (p.name for p in path.parent.glob('*.py')), 1)
        hint = f' Did you mean {path.with_name(close[0])}?' if close else ''
        raise UserError(f'config {path} does not exist.{hint}')
    # For custom_imports of a clone's projects/, whatever the working directory.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(args.cfg_options or {})
        scope = cfg.get('default_scope') or 'mmengine'
        if find_spec(scope) is None:
            raise ImportError(f'No module named {scope!r}')
    except SyntaxError as error:
        raise UserError(f'config {path}, or one that it inherits: {error}') from error
    except ImportError as error:
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        remedies = {**INSTALL, 'projects': 'run from a clone of mmact, which has it'}
        for name, remedy in remedies.items():
            if name in str(first) and find_spec(name) is None:
                raise UserError(f'{path} needs {name}, which is not installed: {remedy}') from first
        raise UserError(f'config {path} needs a module that is not installed: {first}') from first
    cfg.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', path.stem)
    init_default_scope(scope)
    return cfg


def checkpoint_config(
    meta: dict[str, Any], path: str | None = None, options: dict[str, Any] | None = None
) -> Config | None:
    """Returns the config that belongs to a checkpoint.

    Args:
        meta: The checkpoint's ``meta``, in which MMEngine keeps the config.
        path: A config file that is taken instead.
        options: Changes to the config.

    Returns:
        The config; None if there is neither a file nor one in the checkpoint.
    """
    if path:
        config = Config.fromfile(path)
    elif 'cfg' in meta:
        config = Config.fromstring(meta['cfg'], file_format='.py')
    else:
        return None
    config.merge_from_dict(options or {})
    return config


def build_runner(cfg: Config) -> Runner:
    """Builds the runner, and with it model and hooks.

    On a machine without a GPU, distributed runs use gloo, and SyncBN, which has no CPU kernel,
    stays BN.

    Args:
        cfg: The complete config.

    Raises:
        UserError: If the checkpoint to load is missing, the work_dir cannot be written to, or an
            activation of the model does not know its number of channels.
    """
    checkpoint = cfg.get('load_from')
    if checkpoint is not None and '://' not in checkpoint and not osp.isfile(checkpoint):
        raise UserError(f'checkpoint {checkpoint} does not exist')
    trouble = work_dir_trouble(cfg.work_dir)
    if trouble is not None:
        raise UserError(trouble)
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _init_gloo(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    missing = unresolved(runner.model)
    if missing:
        path, module = missing[0]
        raise UserError(
            f'{len(missing)} activations do not know their number of channels, the first is '
            f'{type(module).__name__} at {path!r}: no convolution, linear or normalisation layer '
            f'stands before it. Pass num_channels=... in its act_cfg{module._or_one_for_all()}'
        )
    return runner


def resume_exactly(cfg: Config) -> None:
    """Takes ResumableCheckpointHook where the config has MMEngine's CheckpointHook.

    That one leaves out the state of random number generators and of the data. A config that wants
    it none the less says ``type='mmengine.CheckpointHook'``.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('type') == 'CheckpointHook':
        hook['type'] = 'ResumableCheckpointHook'


def prepare_training(runner: Runner) -> None:
    """Builds what ``runner.train()`` would build first, so that mistakes in it show before.

    Args:
        runner: From :func:`build_runner`.

    Raises:
        UserError: If data are missing, or an optimizer or scheduler is not known.
        Exception: What a hook with a method ``check(runner)`` has against this training.
    """
    check_data(runner.cfg, 'train_dataloader', 'val_dataloader', 'val_evaluator')
    # MMEngine builds schedulers only after training has begun, and optimizers without a message.
    optimizer = runner.cfg.optim_wrapper.get('optimizer')
    parts = ((PARAM_SCHEDULERS, runner.cfg.get('param_scheduler')), (OPTIMIZERS, optimizer))
    for registry, part in parts:
        for node in part if isinstance(part, list) else [part or {}]:
            with registry.switch_scope_and_registry(None) as current:
                if isinstance(node.get('type'), str) and current.get(node['type']) is None:
                    raise UserError(_unknown_type(node['type'], runner.cfg))
    loops = [runner.train_loop, runner.val_loop]
    for loop in loops:
        loader = getattr(loop, 'dataloader', None)
        trouble = None if loader is None else class_trouble(loader.dataset)
        if trouble is not None:
            raise UserError(trouble)
    _try_a_picture(runner)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for hook in runner.hooks:
        if callable(getattr(hook, 'check', None)):
            hook.check(runner)


def _try_a_picture(runner: Runner) -> None:
    """Runs a copy of the model on a picture of the training data.

    The number of channels of an activation is taken from its surroundings. Where they mislead, it
    shows when the model runs.

    Raises:
        UserError: If an activation has another number of channels than its input.
    """
    model, loader = unwrapped(runner.model), runner.train_loop.dataloader
    if not any(isinstance(module, ChannelActivation) for module in model.modules()):
        return
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(), torch.no_grad():
            trial: Any = copy.deepcopy(model).eval()
            batch = loader.collate_fn([loader.dataset[0]])
            trial._run_forward(trial.data_preprocessor(batch, True), mode='loss')
    except ChannelsError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        # Not every model and data set can be tried like this. What is wrong shows in training.
        print_log(f'the model could not be tried on a picture: {error}', level=logging.DEBUG)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def check_data(cfg: Config, *parts: str) -> None:
    """Looks for the folders and annotation files that a config names.

    Annotations are read when a data set is built, pictures only when a worker needs the first one.

    Args:
        cfg: The config in use.
        parts: Keys of its data loaders and evaluators, as 'train_dataloader'.

    Raises:
        UserError: If one is missing; the text names the config keys that lead to it. If an
            annotation has a number that is not finite; the text names it.
    """
    for _, node in _walk([cfg.get(part) for part in parts]):
        if not isinstance(node, dict) or node.get('backend_args') is not None:
            continue
        folders = node.get('data_prefix') or {}
        folders = folders.values() if isinstance(folders, dict) else [folders]
        names = [node.get('ann_file'), *folders, '']
        paths = [osp.join(node.get('data_root') or '', n) for n in names if isinstance(n, str)]
        for path in [*paths, node.get('bbox_file')]:  # MMPose's stands alone
            if path and '://' not in path and not osp.exists(path):
                raise UserError(_missing(path, cfg))
        trouble = annotation_trouble(paths[0]) if isinstance(node.get('ann_file'), str) else None
        if trouble is not None:
            raise UserError(trouble)


def _missing(path: str, cfg: Config) -> str:
    """Says which config keys lead to a path that does not exist."""
    strings = [(key, value) for key, value in _walk(cfg) if isinstance(value, str)]
    roots = [v for k, v in strings if k.endswith('data_root') and v and path.startswith(v)]
    root = max(roots, key=len, default=path)
    # Not the test split: in most configs it repeats the validation split.
    options = ' '.join(
        f'{key}={osp.join("DIR", value[len(root) :].lstrip("/"))}'
        for key, value in strings
        if value.startswith(root) and key.startswith(('train', 'val'))
    )
    return (
        f'{path} does not exist. Put the data set there, or say where it is: --cfg-options '
        f"{options}; to try without it, a clone's tools/dataset_converters/make_mini.py draws a "
        'miniature data set of the same layout'
    )


def _init_gloo(cfg: Config) -> None:
    """Starts a distributed run, as MMEngine does with CUDA."""
    if cfg.launcher == 'slurm':
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        hosts = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        os.environ.setdefault('MASTER_ADDR', hosts[0])
        os.environ.setdefault('MASTER_PORT', '29500')
        for name, slurm in dict(RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID').items():
            os.environ[name] = os.environ[f'SLURM_{slurm}']
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        # Its threads must end before the interpreter does, or they abort the program.
        atexit.register(torch.distributed.destroy_process_group)
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


def _explain(error: Exception, cfg: Config | None) -> str:
    """Returns one line that says what is wrong and what to change."""
    # A KeyError's own text is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, (UserError, CheckpointError)):
        return text
    if isinstance(error, KeyError) and ' registry' in text:
        return _unknown_type(text.split()[0], cfg)
    hint = ''
    if isinstance(error, TypeError) and 'unexpected keyword' in text:
        hint = next(filter(None, (_hint(key, node, text) for key, node in _walk(cfg))), '')
    return f'{type(error).__name__}: {" ".join(text.split())}{hint} (MMACT_TRACEBACK=1 shows where)'


def _unknown_type(name: str, cfg: Config | None) -> str:
    """Says that no registry has a name, where the config has it, and which names are like it."""
    lower = {other.lower(): other for other in sorted(_registered())}
    close = [lower[other] for other in difflib.get_close_matches(name.lower(), lower, n=3)]
    where = next((f' (config key {key})' for key, value in _walk(cfg) if value == name), '')
    remedy = f'Did you mean {" or ".join(close)}?' if close else 'Is its module in custom_imports?'
    return f'{name!r} is not a known type{where}. {remedy}'


def _hint(key: str, node: Any, text: str) -> str:
    """Says what an argument that the text names may be meant for, if the dict has it."""
    cls = _registered().get(str(node.get('type'))) if isinstance(node, dict) else None
    parents: Any = inspect.getmro(cls)[:-1] if inspect.isclass(cls) else ()
    accepted = [name for p in parents for name in inspect.signature(p.__init__).parameters]
    for name in node if accepted else ():
        if f"'{name}'" in text and name not in accepted:
            close = difflib.get_close_matches(name, accepted, n=1)
            return f' (config key {key}.{name})' + (f'. Did you mean {close[0]}?' if close else '')
    return ''


def _walk(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of all that is in a config, a dict or list before its content."""
    yield key, node
    items = node.items() if isinstance(node, (dict, Config)) else ()
    for name, value in enumerate(node) if isinstance(node, (list, tuple)) else items:
        yield from _walk(value, f'{key}.{name}' if key else str(name))


def _registered() -> dict[str, Any]:
    """Returns what configs can name, of all registries; 'scope.name' outside the default scope."""
    scope = getattr(DefaultScope.get_current_instance(), 'scope_name', 'mmengine')
    known = {}
    for registry in vars(root).values():
        if isinstance(registry, Registry):
            known.update(registry.module_dict)
            for child in registry.children.values():
                prefix = '' if child.scope == scope else f'{child.scope}.'
                known.update({prefix + name: cls for name, cls in child.module_dict.items()})
    return known
