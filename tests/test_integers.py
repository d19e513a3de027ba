# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every argument that is an integer takes Python's and NumPy's, and nothing else."""

import re

import numpy as np
import pytest
from odd_calls import targets

TARGETS = targets()
INTEGERS = [(name, argument) for name, t in TARGETS.items() for argument in t.integers]
# An argument that is no number of anything: a dimension, or the last stage that is frozen.
# The last two MMDetection refuses with errors of its own.
SIGNED = (
    *('channel_dim', 'frozen_stages', 'interval', 'max_keep_ckpts', 'channel'),
    *('depth', 'num_stages'),
)


def test_all_kinds_of_classes_are_there():
    assert {'PWLU', 'RPAU', 'ops.pwlu', 'fit_pau', 'to_pwlu'} <= set(TARGETS)
    assert {a for n, a in INTEGERS if n == 'DyReLUC'} == {
        *('num_channels', 'channel_dim', 'K', 'reduction', 'context_channels')
    }
    pytest.importorskip('mmcv')
    assert {'MobileNetV2', 'PWLURealignHook', 'LearnedActivationHook'} <= set(TARGETS)


@pytest.mark.parametrize(('name', 'argument'), INTEGERS)
def test_what_is_no_integer_is_refused(name, argument):
    t = TARGETS[name]
    odd = [3.0, 2.5, True, False, float('nan'), '3', [3], np.float32(3), np.True_, 10**30 * 1.0]
    if argument not in SIGNED:
        odd += [-1, -(10**30)]
    for value in odd:
        with pytest.raises((TypeError, ValueError), match=rf'\b{argument}\b') as caught:
            t.call(**{**t.given(), argument: value})
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('name', 'argument'), INTEGERS)
def test_integers_of_numpy_are_integers(name, argument):
    """As code that counts with NumPy passes them on; kept as Python's, for dumped configs."""
    t = TARGETS[name]
    values = {
        'channel_dim': 1,
        'num_channels': 8,
        'kernel_size': 3,
        'depth': 18,
        'frozen_stages': 1,
        'num_points': 99,
    }
    value = values.get(argument, 4)
    results = [t.call(**{**t.given(), argument: kind(value)}) for kind in (int, np.int64, np.uint8)]
    kept = [getattr(result, argument, None) for result in results]
    assert kept[0] == kept[1] == kept[2]
    assert {type(k) for k in kept} in ({int}, {type(None)})


@pytest.mark.parametrize(
    ('name', 'last'), [('MobileNetV2', 7), ('MobileNetV3', 12), ('ResNet', 4), ('ResNetV1c', 4)]
)
def test_there_are_no_more_stages_to_freeze(name, last):
    if name not in TARGETS:
        pytest.skip(f'{name} needs its codebase')
    t = TARGETS[name]
    for value in (-1, 0, last):
        assert t.call(**t.given(), frozen_stages=value).frozen_stages == value
    for value in (-2, last + 1, 8 if last < 8 else 13, 99):
        with pytest.raises(ValueError, match=rf'{name}: frozen_stages must be .*{last}.*{value}'):
            t.call(**t.given(), frozen_stages=value)


@pytest.mark.parametrize(
    ('name', 'low', 'last'), [('MobileNetV2', 0, 7), ('MobileNetV3', 0, 12), ('ResNet', 0, 3)]
)
def test_stages_that_are_put_out(name, low, last):
    if name not in TARGETS:
        pytest.skip(f'{name} needs its codebase')
    t = TARGETS[name]
    assert t.call(**t.given(), out_indices=[low, np.int64(last)]).out_indices[-1] == last
    for value in (3, 'ab', [1.0], [True], [-1], [None]):
        with pytest.raises(ValueError, match=re.escape(f'{name}: out_indices must be ')):
            t.call(**t.given(), out_indices=value)
