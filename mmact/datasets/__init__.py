# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets: the generator of miniature ones is `mmact.datasets.mini`."""
