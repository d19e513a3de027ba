# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The activations that are in checkpoints."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .families import family
from .layers import activations_from_state_dict

#: Beside the checkpoints of a training: the activations as it began, of LearnedActivationHook.
START_FILE = 'learned_activations_start.pth'

_NUMBERED = re.compile(r'(epoch|iter)_(\d+)')


def checkpoints_of(path: str | Path) -> list[Path]:
    """Lists the numbered checkpoints of a working directory, the oldest first.

    Args:
        path: A folder, or one checkpoint, which then is the only one.

    Raises:
        FileNotFoundError: If there is no such file, or no ``epoch_N.pth`` or ``iter_N.pth`` in the
            folder.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'{path} does not exist')
    found = [(match, file) for file in path.glob('*.pth') if (match := _match(file))]
    if not found:
        raise FileNotFoundError(f'there is no epoch_N.pth or iter_N.pth in {path}')
    return [file for _, file in sorted(found, key=lambda item: int(item[0][2]))]


def label_of(path: Path) -> str:
    """A word for the time of a checkpoint: ``'epoch 12'`` of ``epoch_12.pth``."""
    match = _match(path)
    return f'{match[1]} {match[2]}' if match else path.stem


def _match(path: Path) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(path.stem)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint of MMEngine, or a plain state dict.

    Args:
        path: File, which is read without running code that it may hold.

    Returns:
        The state dict, and what the checkpoint says of itself (``meta``; empty for a state dict).
    """
    # Here, as drawing needs no MMEngine, and reading its checkpoints does.
    from mmact.checkpoints import load_checkpoint_file

    checkpoint = load_checkpoint_file(str(path), 'cpu')
    state_dict = checkpoint.get('state_dict', checkpoint)
    return dict(state_dict), dict(checkpoint.get('meta', {}))


def layers_in(
    state_dict: Mapping[str, Tensor], layers: Mapping[str, nn.Module] | None = None
) -> dict[str, nn.Module]:
    """Returns the activations of a state dict.

    Args:
        state_dict: Of a whole model.
        layers: Activations of the same model, by their path; they stay as they are. None for a
            model that is not at hand: PWLU alone says enough of itself in a state dict.

    Returns:
        Copies in evaluation mode with the parameters and buffers of the state dict. Layers whose
        parameters it does not have, or in other shapes, are left out.
    """
    if layers is None:
        return activations_from_state_dict(state_dict)
    found = {}
    for path, layer in layers.items():
        start = f'{path}.' if path else ''
        own = {k[len(start) :]: v for k, v in state_dict.items() if k.startswith(start)}
        layer = copy.deepcopy(layer).eval()
        try:
            missing = layer.load_state_dict(own, strict=False).missing_keys
        except RuntimeError:  # of another shape
            continue
        if not {name for name, _ in layer.named_parameters()} & set(missing):
            found[path] = layer
    return found


def certain_starts(
    layers: Mapping[str, nn.Module], others: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """Returns the layers that start as the same function whatever the random numbers.

    Args:
        layers: Activations as a model is built.
        others: The same of a second one, built with other random numbers.
    """
    return {path: layer for path, layer in layers.items() if _same(layer, others[path])}


def _same(layer: nn.Module, other: nn.Module) -> bool:
    a, b = family(layer), family(other)
    x = torch.linspace(-4, 4, 33).expand(a.count, -1)
    return torch.allclose(a.evaluate(x), b.evaluate(x), atol=1e-6, equal_nan=True)


def state_of(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Returns the state dict of activations by their paths, as a part of the model's."""
    return {
        f'{path}.{name}' if path else name: value.detach().cpu().clone()
        for path, layer in layers.items()
        for name, value in layer.state_dict().items()
    }
