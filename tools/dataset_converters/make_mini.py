#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a miniature data set: the command of projects/mini_datasets."""

import sys
from pathlib import Path

# Projects are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from projects.mini_datasets.make import main  # noqa: E402

if __name__ == '__main__':
    main()
