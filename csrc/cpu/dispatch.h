// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From tensors to tasks: what every formula's CPU op does before and after its kernel.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <string>

#include "isa.h"

namespace mmact {

// The build of a kernel table for the instruction set that PyTorch itself uses on this machine,
// which the environment variable ATEN_CPU_CAPABILITY can lower.
inline int isa_level() {
#if defined(__x86_64__)
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return 2;
  if (capability == "AVX2") return 1;
#endif
  return 0;
}

#if defined(__x86_64__)
#define MMACT_SELECT_ISA(table)              \
  (isa_level() == 2   ? mmact::avx512::table \
   : isa_level() == 1 ? mmact::avx2::table   \
                      : mmact::portable::table)
#else
#define MMACT_SELECT_ISA(table) mmact::portable::table
#endif

inline Storage storage_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kHalf:
      return Storage::kHalf;
    case at::kBFloat16:
      return Storage::kBFloat16;
    case at::kFloat:
      return Storage::kFloat;
    default:
      return Storage::kDouble;
  }
}

// Channels in tables and sums: whole vectors of any instruction set.
inline int64_t padded_channels(int64_t channels) { return (channels + 15) / 16 * 16; }

// The task without its data. `x` must be dense (see dense.h).
inline Task make_task(const at::Tensor& x, int64_t channels, int64_t channel_dim) {
  constexpr int64_t kChunk = 16384;  // elements; enough work to outweigh the sums of a chunk
  Task task{};
  task.channels = channels;
  task.inner = channels == 1 ? x.numel() : x.stride(channel_dim);
  task.outer = x.numel() / (task.channels * task.inner);
  if (task.lane_is_channel()) {
    task.chunk = std::max<int64_t>(128, (task.outer + 31) / 32);
    task.num_chunks = (task.outer + task.chunk - 1) / task.chunk;
  } else {
    task.chunk =
        task.inner > kChunk ? kChunk : task.inner * std::max<int64_t>(1, kChunk / task.inner);
    task.num_chunks = (task.outer * task.inner + task.chunk - 1) / task.chunk;
  }
  task.channel_stride = padded_channels(channels);
  return task;
}

// Runs work(begin, end) over the items of a task on PyTorch's threads.
template <class Work>
void run_task(const Task& task, const Work& work) {
  const int64_t items = task.num_items();
  const int64_t per_item = task.outer * task.inner * task.channels / items + 1;
  at::parallel_for(0, items, std::max<int64_t>(1, 32768 / per_item), work);
}

// Adds up the chunks' partial sums, in their order: (entries, channel_stride).
inline at::Tensor add_chunks(const at::Tensor& sums, const Task& task, int64_t entries) {
  return sums.view({task.num_chunks, entries, task.channel_stride}).sum(0);
}

}  // namespace mmact
