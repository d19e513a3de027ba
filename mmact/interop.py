# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""mmact's activations under the names that other libraries use."""

from __future__ import annotations

from .activations.catalogue import layers


def register_with_transformers() -> list[str]:
    """Lets the configs of Hugging Face's transformers name mmact's activations.

    ``hidden_act='pwlu'`` (or ``hidden_activation``, ``activation_function``, ...) then gives one
    function per channel where that is the layer's default, ``'pwlu_layer'`` one for the layer.
    Names are those of the classes in lower case; names that transformers has itself stay its own.

    Functions per channel need the linear layer whose output they see to be the last one registered
    before them, as in BERT or ViT. Where it is not, as in Llama's gated MLP, take a layer-wise one,
    or :func:`mmact.convert` on the model.

    Returns:
        The names that were added; none the second time.

    Raises:
        ImportError: If transformers is not installed.

    Example:
        >>> mmact.register_with_transformers()
        >>> config = transformers.BertConfig(hidden_act='pwlu')
    """
    from transformers.activations import ACT2FN

    added = []
    for name, cls in layers().items():
        kinds: dict[str, dict] = {name.lower(): {}}
        if cls.elementwise and getattr(cls(), 'num_groups', 1) is None:
            kinds[f'{name.lower()}_layer'] = dict(num_groups=1)
        for key, arguments in kinds.items():
            if key not in ACT2FN:
                ACT2FN[key] = (cls, arguments)
                added.append(key)
    return added
