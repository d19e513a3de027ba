# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
