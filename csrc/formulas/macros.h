// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Marks what compiles for the CPU and for CUDA. On the CPU it is inlined by force: the formulas are
// built once per instruction set, and a copy shared by the linker would have the wrong one.
//
// MMACT_COLD is for rare, long code, which must not burden the registers of its callers. It must be
// a template on the number system, whose name tells the instruction sets' copies apart.
#if defined(__CUDACC__)
#define MMACT_HD __host__ __device__ __attribute__((always_inline))
#define MMACT_COLD __host__ __device__ __noinline__
#else
#define MMACT_HD __attribute__((always_inline))
#define MMACT_COLD __attribute__((noinline))
#endif

// The same for a lambda, after its parameters. In CUDA it takes after the function that it is in.
#define MMACT_LAMBDA __attribute__((always_inline))

// Before a loop whose every turn has constants of its own.
#if defined(__CUDACC__)
#define MMACT_UNROLL _Pragma("unroll")
#else
#define MMACT_UNROLL _Pragma("GCC unroll 16")
#endif
