// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From tensors to tasks: what every elementwise op does on the CPU around its kernels.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../formulas/cpab_table.h"
#include "../ops/tensors.h"
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

// Channels in tables and sums: whole vectors of any instruction set.
inline int64_t padded_channels(int64_t channels) { return (channels + 15) / 16 * 16; }

// The task without its table and results. `x` must be dense (see ops/tensors.h). Its channels at
// `channel_dim` are divided into `groups` of neighbours, which to a kernel are the channels.
inline Task make_task(const Tensor& x, int64_t groups, int64_t channel_dim) {
  constexpr int64_t kChunk = 16384;  // elements; enough work to outweigh the sums of a chunk
  Task task{};
  task.storage = storage_of(x);
  task.x = x.const_data_ptr();
  task.channels = groups;
  task.inner = groups == 1 ? x.numel() : x.stride(channel_dim) * (x.size(channel_dim) / groups);
  task.outer = x.numel() / (task.channels * task.inner);
  if (task.lane_is_channel()) {
    task.chunk = std::max<int64_t>(128, (task.outer + 31) / 32);
    task.num_chunks = (task.outer + task.chunk - 1) / task.chunk;
  } else {
    task.chunk =
        task.inner > kChunk ? kChunk : task.inner * std::max<int64_t>(1, kChunk / task.inner);
    task.num_chunks = (task.outer * task.inner + task.chunk - 1) / task.chunk;
  }
  task.channel_stride = padded_channels(groups);
  return task;
}

// Runs work(begin, end) over the items of a task on PyTorch's threads.
template <class Work>
void run_task(const Task& task, const Work& work) {
  const int64_t items = task.num_items();
  const int64_t per_item = task.outer * task.inner * task.channels / items + 1;
  at::parallel_for(0, items, std::max<int64_t>(1, 32768 / per_item), work);
}

// The table of all groups, for a task in whose layout kernels will read it. Backward needs the
// first `rows` of a group, but loads what forward does: there is memory for all of them behind the
// last.
template <class Description>
Tensor make_table(const Description& op, int rows, Task& task) {
  const auto& settings = op.settings;
  const ValuesOf p(op.parameters);
  const bool lanes = task.lane_is_channel();
  task.table_channel = lanes ? 1 : rows;
  task.table_row = lanes ? task.channel_stride : 1;
  const auto dtype = task.storage == Storage::kDouble ? at::kDouble : at::kFloat;
  const int64_t all = settings.rows();
  const Tensor table = lanes ? at::zeros({all, task.channel_stride}, dtype)
                             : at::empty({op.groups * rows + all - rows}, dtype);
  task.table = table.const_data_ptr();
  const auto fill = [&](auto* to) {
    for (int64_t g = 0; g < op.groups; ++g) {
      const auto group = settings.group(p.values, g);
      for (int row = 0; row < rows; ++row)
        to[g * task.table_channel + row * task.table_row] =
            static_cast<std::decay_t<decltype(*to)>>(group.number(row));
    }
  };
  if (dtype == at::kDouble)
    fill(table.mutable_data_ptr<double>());
  else
    fill(table.mutable_data_ptr<float>());
  return table;
}

// Runs the kernels of an elementwise op on dense tensors of the same strides, which are not empty.
struct CpuDevice {
  template <class Description>
  static void forward(const Description& op, const Tensor& x, Tensor& y) {
    using Settings = typename Description::Settings;
    Task task = make_task(x, op.groups, op.channel_dim);
    task.out = y.mutable_data_ptr();
    const Tensor table = make_table(op, op.settings.rows(), task);
    const auto kernel = MMACT_SELECT_ISA(kernels<Settings>)().forward;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, op.settings, begin, end); });
  }

  // Writes the gradients of x and, where g has a tensor for them, of the parameters.
  template <class Description, size_t n>
  static void backward(const Description& op, const Tensor& grad, const Tensor& x, Tensor& gx,
                       const std::array<Tensor, n>& g) {
    using Settings = typename Description::Settings;
    Task task = make_task(x, op.groups, op.channel_dim);
    task.grad = grad.const_data_ptr();
    task.out = gx.mutable_data_ptr();
    const Tensor table = make_table(op, op.settings.backward_rows(), task);
    Tensor sums =
        at::zeros({task.num_chunks, op.settings.entries(), task.channel_stride}, at::kDouble);
    task.sums = sums.mutable_data_ptr<double>();
    const auto kernel = MMACT_SELECT_ISA(kernels<Settings>)().backward;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, op.settings, begin, end); });
    sums = sums.sum(0);  // the chunks' partial sums, in their order
    const double* const totals = sums.const_data_ptr<double>();
    const ValuesOf p(op.parameters);
    const SlotsOf out(g);
    for (int64_t c = 0; c < op.groups; ++c)
      op.settings.gradients(
          p.values, c, [&](int64_t entry) { return totals[entry * task.channel_stride + c]; },
          out.slots);
  }

  // Makes the tables of CPAB, or their gradients, for groups that `theta` (G, N - 1) has rows for.
  template <class Work>
  static void for_each_group(const Work& work, const Tensor& theta) {
    at::parallel_for(0, theta.size(0), std::max<int64_t>(1, 256 / work.domain.cells),
                     [&](int64_t begin, int64_t end) {
                       std::vector<double> scratch(work.domain.scratch_size());
                       for (int64_t g = begin; g < end; ++g) work(CpabAlone(), g, scratch.data());
                     });
  }
};

}  // namespace mmact
