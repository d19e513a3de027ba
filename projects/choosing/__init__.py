# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A study that helps to choose an activation."""
