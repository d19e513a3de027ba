// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#define MMACT_ISA_LEVEL 2
#define MMACT_ISA avx512
#include "kernels.inc"
