// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The kernels are built once per instruction set and chosen at run time, so that one build runs on
// every x86-64 CPU at its best. The build of instruction set NAME lives in namespace mmact::NAME.
#pragma once

#include "task.h"

// Set by kernels_*.cpp; else for tools that look at a header alone.
#ifndef MMACT_ISA
#define MMACT_ISA portable
#define MMACT_ISA_LEVEL 0
#endif

namespace mmact {

// The kernels of a formula. They process the work items [begin, end) of a task.
template <class Settings>
struct Kernels {
  using Run = void (*)(const Task& task, const Settings& settings, int64_t begin, int64_t end);
  Run forward, backward;
};

using DyreluRun = void (*)(const SamplesTask& task, const SampleTable& coefficients,
                           int num_functions, int64_t begin, int64_t end);
// Forward sums; `mean` is not used. Backward adds `mean` / pixels to the gradient.
using SqueezeRun = void (*)(const SamplesTask& task, const SampleTable& weight,
                            const SampleTable& mean, int64_t begin, int64_t end);

struct DyreluKernels {
  DyreluRun forward, backward;
  SqueezeRun squeeze, squeeze_backward;
};

// A task's Norm without a formula: writes z, or adds up z and z * (x - center).
struct NormKernels {
  using Run = void (*)(const Task& task, int64_t begin, int64_t end);
  Run normalise, sum;
};

#define MMACT_DECLARE_KERNELS(isa)           \
  namespace isa {                            \
  template <class Settings>                  \
  Kernels<Settings> kernels();               \
  extern const DyreluKernels dyrelu_kernels; \
  extern const NormKernels norm_kernels;     \
  }
MMACT_DECLARE_KERNELS(portable)
#if defined(__x86_64__)
MMACT_DECLARE_KERNELS(avx2)
MMACT_DECLARE_KERNELS(avx512)
#endif
#undef MMACT_DECLARE_KERNELS

}  // namespace mmact
