# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Repeats papers and makes demonstrations with mmact; in a clone only."""

from pkgutil import extend_path

# Other repositories have a folder of this name, too.
__path__ = extend_path(__path__, __name__)
