# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Fits of PAU's coefficients, and a check of the paper's table of them."""
