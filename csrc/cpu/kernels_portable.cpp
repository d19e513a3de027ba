// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#define MMACT_ISA_LEVEL 0
#define MMACT_ISA portable
#include "kernels.inc"
