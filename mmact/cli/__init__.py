# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What tools/train.py and tools/test.py are made of, for use from Python."""

from .errors import UserError, explain, one_line_errors
from .launch import (
    add_common_arguments,
    build_runner,
    load_config,
    prepare_test,
    prepare_training,
)

__all__ = [
    'UserError',
    'add_common_arguments',
    'build_runner',
    'explain',
    'load_config',
    'one_line_errors',
    'prepare_test',
    'prepare_training',
]
