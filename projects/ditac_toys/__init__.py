# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The toy experiments of the DiTAC paper."""
