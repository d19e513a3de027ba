// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The kernels are built once per instruction set and chosen at run time, so that one build runs on
// every x86-64 CPU at its best. The build of instruction set NAME lives in namespace mmact::NAME.
#pragma once

#include "task.h"

namespace mmact {

// Processes the work items [begin, end) of a task. `table` is a PwluTable of float or double, as
// the storage type's arithmetic has it.
using PwluRun = void (*)(Storage storage, const Task& task, const void* table, bool inference,
                         int64_t begin, int64_t end);

struct PwluKernels {
  PwluRun forward, backward;
};

// The numbers of all channels, in float or double as the storage type's arithmetic has it: number
// `row` of channel c is at row * stride + c.
struct RowTable {
  const void* numbers;
  int64_t stride;
};

using PiecewiseLinearRun = void (*)(Storage storage, const Task& task, const RowTable& table,
                                    int num_breakpoints, int64_t begin, int64_t end);

struct PiecewiseLinearKernels {
  PiecewiseLinearRun forward, backward;
};

struct PauSettings;  // formulas/pau.h

using PauRun = void (*)(Storage storage, const Task& task, const RowTable& table,
                        const PauSettings& settings, int64_t begin, int64_t end);

struct PauKernels {
  PauRun forward, backward;
};

struct CpabSettings;  // formulas/cpab.h

// The numbers of all channels, in float or double as the storage type's arithmetic has it: number
// `row` of channel c is at c * channel_stride + row * row_stride. Where a lane is a channel, whole
// vectors of channels can be read.
struct CpabNumbers {
  const void* numbers;
  int64_t channel_stride, row_stride;
};

using CpabRun = void (*)(Storage storage, const Task& task, const CpabNumbers& numbers,
                         const CpabSettings& settings, int64_t begin, int64_t end);

struct CpabKernels {
  CpabRun forward, backward;
};

// What kernels work on whose coefficients belong to a sample, and which may read and sum numbers of
// a pixel, that is of all its channels.
struct SamplesTask {
  static constexpr int64_t kBlock = 64;  // channels in a work item; whole vectors
  // One sample: pointers to the first; a chunk is a run of pixels. Its sums are
  // (num_chunks, samples, entries, channel_stride).
  Task task;
  int64_t samples, num_blocks;
  // In the storage type's arithmetic, or null.
  const void* pixels;  // (samples, pixels)
  void* pixel_sums;    // (num_blocks, samples, pixels): partial sums
};

// Numbers of the channels of samples, in the storage type's arithmetic: number `row` of a channel
// is at sample * sample_stride + row * row_stride + channel. Where a lane is a channel, whole
// vectors of channels can be read.
struct SampleTable {
  const void* numbers;
  int64_t sample_stride, row_stride;
};

using DyreluRun = void (*)(Storage storage, const SamplesTask& task,
                           const SampleTable& coefficients, int num_functions, int64_t begin,
                           int64_t end);
// Forward sums; `mean` is not used. Backward adds `mean` / pixels to the gradient.
using SqueezeRun = void (*)(Storage storage, const SamplesTask& task, const SampleTable& weight,
                            const SampleTable& mean, int64_t begin, int64_t end);

struct DyreluKernels {
  DyreluRun forward, backward;
  SqueezeRun squeeze, squeeze_backward;
};

#define MMACT_DECLARE_KERNELS(isa)                              \
  namespace isa {                                               \
  extern const PwluKernels pwlu_kernels;                        \
  extern const PiecewiseLinearKernels piecewise_linear_kernels; \
  extern const PauKernels pau_kernels;                          \
  extern const DyreluKernels dyrelu_kernels;                    \
  extern const CpabKernels cpab_kernels;                        \
  }
MMACT_DECLARE_KERNELS(portable)
#if defined(__x86_64__)
MMACT_DECLARE_KERNELS(avx2)
MMACT_DECLARE_KERNELS(avx512)
#endif
#undef MMACT_DECLARE_KERNELS

}  // namespace mmact
