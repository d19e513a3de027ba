# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Experiments on handwritten digits: convergence (AReLU) and filter pruning (PAU)."""
