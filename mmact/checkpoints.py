# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Loading checkpoints without running code that is in them."""

from __future__ import annotations

import errno
import importlib
import pickle
import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmact.ops._compat import VERSION


def _method(owner: Any, name: str) -> Any:
    """In the place of getattr, by which methods are pickled: of HistoryBuffer alone."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'GLOBAL getattr of {name!r}')
    return getattr(owner, name)


# NumPy 2 renamed the module.
_multiarray: Any = importlib.import_module(
    'numpy._core.multiarray' if hasattr(np, '_core') else 'numpy.core.multiarray'
)
#: What MMEngine's checkpoints hold besides tensors, numbers and text: its logs, and what a data set
#: says of itself, as NumPy's arrays of numbers and text.
SAFE: list[Any] = [
    (_method, 'builtins.getattr'),
    *(HistoryBuffer, bytes, np.ndarray, np.dtype, _multiarray._reconstruct, _multiarray.scalar),
    *{type(np.dtype(code)) for code in np.typecodes['All'] if code not in 'OV'},
]


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the text says why."""


def _safe_globals() -> AbstractContextManager:
    return torch.serialization.safe_globals(SAFE)


def load_checkpoint_file(path: str, map_location: Any = 'cpu') -> Any:
    """Loads a checkpoint whose pickle may name nothing but what :data:`SAFE` has.

    Torch before 2.6 cannot be told what stands for getattr; there it is loaded as MMEngine does.

    Args:
        path: A file.
        map_location: As of :func:`torch.load`.

    Raises:
        CheckpointError: If it holds other objects, or is no whole checkpoint.
        OSError: If it cannot be read.
    """
    if VERSION < (2, 6):
        return CheckpointLoader.load_checkpoint(path, map_location=map_location)
    try:
        with _safe_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)|got (<class .*?>)', str(error))
        name = (found and (found[1] or found[2])) or 'what is not told'
        raise CheckpointError(
            f'checkpoint {path} holds other objects than tensors, numbers and text ({name}); '
            f'loading them could run any code. If you trust it, keep its weights alone: '
            f"torch.save(torch.load(OLD, weights_only=False)['state_dict'], NEW)"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise CheckpointError(f'{path} is no checkpoint, or not whole: {error}') from error


def _load_local(path: str, map_location: Any) -> Any:
    return load_checkpoint_file(path, map_location)


def _load_url(path: str, map_location: Any) -> Any:
    """A URL, which rank 0 downloads before the other ranks read the file."""
    rank, world_size = get_dist_info()
    checkpoint = None
    for turn in range(2 if world_size > 1 else 1):
        if (rank == 0) == (turn == 0):
            with _safe_globals():
                checkpoint = torch.hub.load_state_dict_from_url(
                    path, map_location=map_location, weights_only=True
                )
        if world_size > 1 and turn == 0:
            torch.distributed.barrier()
    return checkpoint


def load_weights_only() -> None:
    """Makes MMEngine load all checkpoints as :func:`load_checkpoint_file` does, in this process."""
    if VERSION >= (2, 6):
        CheckpointLoader.register_scheme('', _load_local, force=True)
        CheckpointLoader.register_scheme(('http://', 'https://'), _load_url, force=True)
