// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Marks what compiles for the CPU and for CUDA. On the CPU it is inlined by force: the formulas are
// built once per instruction set, and a copy shared by the linker would have the wrong one.
#if defined(__CUDACC__)
#define MMACT_HD __host__ __device__ __attribute__((always_inline))
#else
#define MMACT_HD __attribute__((always_inline))
#endif
