# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from which a training goes on exactly, and which a crash cannot destroy."""

from __future__ import annotations

import inspect
import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...ops._arguments import integer
from ..seeded_batches import EPOCH, STEP, SeededBatches, seed_generators
from ._unwrapped import unwrapped

_STATE = 'data_position'


@register_backend('AtomicLocalBackend')
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, each of which is whole or not there at any time."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file under another name, and renames it once it is on the disk."""
        with _replaced(filepath) as part:
            super().put(obj, part)
            with open(part, 'rb') as file:
                os.fsync(file.fileno())

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes a file under another name, and renames it."""
        with _replaced(filepath) as part:
            super().put_text(obj, part, encoding)


@contextmanager
def _replaced(path: str | Path) -> Iterator[str]:
    part = f'{path}.part'
    try:
        yield part
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.remove(part)
        raise


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, whose checkpoints resume exactly and outlive a crash.

    A training that is killed at any time and resumed (``resume=True``) ends with the same
    parameters, to the bit, as one that never stopped, where its operations are deterministic: on
    CPUs, and on GPUs with ``randomness=dict(deterministic=True)``. For that,

    - before every iteration Python's, NumPy's and PyTorch's generators (CUDA's too) are seeded with
      a hash of (seed, rank, iteration), and workers seed theirs likewise before every batch (see
      :class:`mmact.engine.seeded_batches.SeededBatches`). So no state of a generator has to be
      stored, validations in between change nothing, and images are augmented alike by any number
      of workers. Ranks draw different numbers. MMEngine stores the seed; that of the sampler, where
      it differs, is in the checkpoint's ``data_position``;
    - a resumed training leaves out the batches that were used: by their indices, without loading
      them, and also in the middle of an epoch of an EpochBasedTrainLoop.

    Checkpoints are written under another name and then renamed, and only then are outdated ones
    deleted, so that whole checkpoints are there at any time (with ``max_keep_ckpts=1`` two for a
    moment). A checkpoint with parameters that are not finite is not written.

    Not resumed is what neither a checkpoint nor a generator holds: gradients accumulated at the
    checkpoint (let ``interval`` be a multiple of ``accumulative_counts``), caches of transforms
    (CachedMosaic), generators of their own (Albumentations), a scheduler's step after a validation
    (ReduceOnPlateauLR).

    Args:
        kwargs: As for CheckpointHook.

    Raises:
        ValueError: When built, if interval, max_keep_ckpts or save_begin is not an integer or out
            of range.
        FloatingPointError: When a checkpoint is due, if parameters are not finite.
        OSError: When a checkpoint cannot be written.

    Example:
        >>> default_hooks = dict(checkpoint=dict(type='ResumableCheckpointHook', interval=1))
    """

    # Of the parent.
    backend_args: dict | None
    keep_ckpt_ids: deque[int]

    def __init__(self, *args, **kwargs) -> None:
        # The parent takes anything for a number, and fails or does nothing when the time comes.
        bound = inspect.signature(CheckpointHook).bind(*args, **kwargs)
        given = bound.arguments
        for name, low in (('interval', -1), ('max_keep_ckpts', -1), ('save_begin', 0)):
            if name in given:
                given[name] = integer(type(self).__name__, name, given[name], low)
        super().__init__(*bound.args, **bound.kwargs)
        local = '://' not in str(self.out_dir)
        if local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend='AtomicLocalBackend')
        self._batches: SeededBatches | None = None
        self._stored: dict[str, int] | None = None

    # Random numbers and data ----------------------------------------------------------------------

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keeps what the checkpoint says of the data until training begins."""
        self._stored = checkpoint.get(_STATE)

    def before_train(self, runner: Runner) -> None:
        """Numbers the batches, and leaves out those that a resumed training has used."""
        super().before_train(runner)
        loader = runner.train_dataloader
        try:
            batches = SeededBatches(loader, runner.seed, get_rank())
        except TypeError as error:
            self._batches = None
            runner.logger.warning(
                f'ResumableCheckpointHook: {error}; what a resumed training reads differs'
            )
            return
        self._batches = batches
        if runner.iter == 0:
            return
        current = _data_position(batches)
        stored = self._stored or current
        if stored['sampler_seed'] is not None:
            batches.sampler.seed = stored['sampler_seed']
        changed = [name for name in ('world_size', 'batch_size') if stored[name] != current[name]]
        if changed:
            runner.logger.warning(
                'ResumableCheckpointHook: the training goes on, but not exactly: '
                + ', '.join(f'{name} was {stored[name]} and is {current[name]}' for name in changed)
            )
        elif not isinstance(runner.train_loop, IterBasedTrainLoop):  # which skips by itself
            batches.skip((runner.iter - runner.epoch * len(loader)) * batches.batch_size)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds what a sampler may draw, and tells the batches where training is."""
        seed_generators(runner.seed, get_rank(), runner.epoch, EPOCH)
        if self._batches is not None:
            self._batches.iteration = runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds what the iteration may draw."""
        seed_generators(runner.seed, get_rank(), runner.iter, STEP)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed training must know of the data."""
        if self._batches is not None:
            checkpoint[_STATE] = _data_position(self._batches)

    # Files ----------------------------------------------------------------------------------------

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Writes a checkpoint, then says that it is the last one, then deletes outdated ones."""
        unit = 'epoch' if self.by_epoch else 'iteration'
        _require_finite(runner, f'checkpoint of {unit} {step}')
        outdated = []
        if self.max_keep_ckpts > 0:
            steps = [*(other for other in self.keep_ckpt_ids if other != step), step]
            outdated = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :], self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if not is_main_process():
                return
            name = os.path.join(runner.work_dir, 'last_checkpoint')
            AtomicLocalBackend().put_text(self.last_ckpt, name)
        except OSError as error:
            raise OSError(
                error.errno,
                f'{error.strerror}: the checkpoint of {unit} {step} is not written'
                f'{_free_space(self.out_dir)}; earlier ones are whole, --resume goes on from them',
                self.last_ckpt,
            ) from error
        for other in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(other))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # one file for each rank
                self.file_backend.rmtree(path)


def _data_position(batches: SeededBatches) -> dict[str, int | None]:
    """The part of a checkpoint that a resumed training must know of the data."""
    return dict(
        sampler_seed=getattr(batches.sampler, 'seed', None),
        batch_size=batches.batch_size,
        world_size=get_world_size(),
    )


def _require_finite(runner: Runner, what: str) -> None:
    bad = [
        path
        for path, parameter in unwrapped(runner.model).named_parameters()
        if not parameter.isfinite().all()
    ]
    if bad:
        raise FloatingPointError(
            f'{what} is not written: {len(bad)} parameters are NaN or infinite, the first is '
            f'{bad[0]}. Earlier checkpoints are kept. A smaller learning rate, or '
            'optim_wrapper.clip_grad, may help; so may a look at the annotations'
        )


def _free_space(folder: str) -> str:
    try:
        return f' ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free)'
    except OSError:
        return ''
