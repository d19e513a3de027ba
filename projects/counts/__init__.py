# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-adds of the papers' networks, beside mmact's."""
