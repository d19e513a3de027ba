// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#define MMACT_ISA_LEVEL 1
#define MMACT_ISA avx2
#include "kernels.inc"
