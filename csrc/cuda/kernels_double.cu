// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#define MMACT_RAW double
#include "kernels.inc"
