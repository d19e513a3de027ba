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
#include "../ops/norm.h"
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
// Columns a power of two apart would share a few places of the cache.
inline int64_t padded_channels(int64_t channels) {
  const int64_t padded = (channels + 15) / 16 * 16;
  return padded % 256 == 0 ? padded + 16 : padded;
}

// Where neighbours belong to different channels.
inline int64_t rows_in_chunk(int64_t rows) { return std::max<int64_t>(128, (rows + 31) / 32); }

// The task without its table and results. `x` must be dense (see ops/tensors.h). Its channels at
// `channel_dim` are divided into `groups` of neighbours, which to a kernel are the channels.
inline Task make_task(const Tensor& x, int64_t groups, int64_t channel_dim,
                      const Norm* norm = nullptr) {
  constexpr int64_t kChunk = 16384;  // elements; enough work to outweigh the sums of a chunk
  Task task{};
  task.storage = storage_of(x);
  task.x = x.const_data_ptr();
  task.channels = groups;
  task.inner = groups == 1 ? x.numel() : x.stride(channel_dim) * (x.size(channel_dim) / groups);
  task.outer = x.numel() / (task.channels * task.inner);
  if (task.lane_is_channel()) {
    task.chunk = rows_in_chunk(task.outer);
    task.num_chunks = (task.outer + task.chunk - 1) / task.chunk;
  } else {
    // Whole runs of one channel: of the norm's, if there is one, whose sums are those of a run.
    const int64_t run = norm == nullptr ? task.inner : norm->inner;
    if (run == 1 && norm != nullptr)
      task.chunk = rows_in_chunk(x.numel() / norm->channels) * (norm->channels / groups);
    else
      task.chunk = run > kChunk ? kChunk : run * std::max<int64_t>(1, kChunk / run);
    task.num_chunks = (task.outer * task.inner + task.chunk - 1) / task.chunk;
  }
  task.channel_stride = padded_channels(groups);
  task.norm = norm;
  return task;
}

// Runs work(begin, end) over groups of channels, each of which has so many numbers to be made.
template <class Work>
void for_groups(int64_t groups, int64_t numbers, const Work& work) {
  at::parallel_for(0, groups, std::max<int64_t>(1, 16384 / numbers), work);
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
  // Lanes without a channel have the last one's function: what they find in it, they look up.
  const int64_t columns = lanes ? task.channel_stride : op.groups;
  const auto fill = [&](auto* to) {
    for_groups(columns, rows, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const auto group = settings.group(p.values, std::min(g, op.groups - 1));
        for (int row = 0; row < rows; ++row)
          to[g * task.table_channel + row * task.table_row] =
              static_cast<std::decay_t<decltype(*to)>>(group.number(row));
      }
    });
  };
  if (dtype == at::kDouble)
    fill(table.mutable_data_ptr<double>());
  else
    fill(table.mutable_data_ptr<float>());
  return table;
}

// A norm as kernels take it, and its vectors. Rows of `numbers`: scale, shift, center, factor.
struct CpuNorm {
  Norm norm{};
  Tensor numbers, sums;

  CpuNorm(const NormOf& of, const Tensor& x) : CpuNorm(x) {
    if (of.residual.defined()) norm.residual = of.residual.const_data_ptr();
    const NormReader reader(of);
    norm.scale = fill(0, [&](int64_t c) { return reader.scale(c); });
    norm.shift = fill(1, [&](int64_t c) { return reader.shift(c); });
    norm.center = fill(2, [&](int64_t c) { return reader.mean.at(c); });
  }
  explicit CpuNorm(const Tensor& x)
      : numbers(at::empty({4, x.size(1) + Norm::kPadding}, at::TensorOptions(arithmetic_type(x)))) {
    norm.channels = x.size(1);
    norm.inner = norm.channels == 1 ? x.numel() : x.stride(1);
  }
  // Fills a row of the vectors.
  template <class Number>
  const void* fill(int64_t row, const Number& number) {
    const int64_t size = norm.channels + Norm::kPadding;
    const auto write = [&](auto* to) -> const void* {
      using T = std::decay_t<decltype(*to)>;
      to += row * size;
      for (int64_t c = 0; c < norm.channels; ++c) to[c] = static_cast<T>(number(c));
      for (int64_t c = norm.channels; c < size; ++c) to[c] = to[c - norm.channels];
      return to;
    };
    if (numbers.scalar_type() == at::kDouble) return write(numbers.mutable_data_ptr<double>());
    return write(numbers.mutable_data_ptr<float>());
  }
  // Before backward: memory for the sums of a task. `g_residual`: null if statistics are x's own;
  // else it gets the gradient of z, if there is a residual.
  void start(const Task& task, Tensor* g_residual) {
    norm.constant = g_residual != nullptr;
    if (norm.constant && norm.residual != nullptr)
      norm.grad_residual = g_residual->mutable_data_ptr();
    if (norm.inner == 1) {
      norm.stride = padded_channels(norm.channels) + Norm::kPadding;
      sums = at::zeros({task.num_chunks, 2, norm.stride}, at::kDouble);
    } else {
      const int64_t rows = task.outer * task.channels * task.inner / norm.inner;
      norm.parts = task.chunk % norm.inner == 0 ? 1 : norm.inner / task.chunk + 2;
      sums = at::zeros({rows, norm.parts, 2}, at::kDouble);
    }
    norm.sums = sums.mutable_data_ptr<double>();
  }
  // After it: writes the gradients of weight and bias, if they are defined, and from that of z, if
  // it is defined, the gradient of x.
  void finish(const NormOf& of, const Tensor& gz, const Tensor& x, Tensor& gx,
              const Tensor& g_weight, const Tensor& g_bias) {
    const NormReader reader(of);
    const Tensor both = totals();
    const double* const sums = both.const_data_ptr<double>();
    const double* const products = sums + norm.channels;
    const SlotsOf<2> slots({g_weight, g_bias});
    for (int64_t c = 0; c < norm.channels; ++c) {
      if (of.weight.defined()) slots.slots[0].put(c, products[c] * reader.inv_std(c));
      if (of.bias.defined()) slots.slots[1].put(c, sums[c]);
    }
    if (!gz.defined()) return;
    const double count = static_cast<double>(x.numel() / norm.channels);
    norm.shift = fill(1, [&](int64_t c) { return -reader.scale(c) * sums[c] / count; });
    norm.factor = fill(3, [&](int64_t c) {
      const double inv_std = reader.inv_std(c);
      return -reader.scale(c) * inv_std * inv_std * products[c] / count;
    });
    second_pass(gz, x, gx);
  }

  // Adds factor * (x - center) + shift, of vectors (C,), to g. All are dense, with g's strides.
  static void add_centered(Tensor& g, const Tensor& x, const Tensor& center, const Tensor& factor,
                           const Tensor& shift) {
    CpuNorm own(g);
    const auto vector = [&](int64_t row, const Tensor& t) {
      const Values values{t.const_data_ptr(), storage_of(t)};
      return own.fill(row, [&](int64_t c) { return values.at(c); });
    };
    own.norm.scale = own.fill(0, [](int64_t) { return 1; });
    own.norm.shift = vector(1, shift);
    own.norm.center = vector(2, center);
    own.norm.factor = vector(3, factor);
    own.second_pass(g, x, g);
  }

  // Mean and variance of each channel of a dense x, and what BatchNorm keeps of them. Sums are of
  // the differences from the channel's first element, so that a large mean costs no digits.
  static void statistics(const Tensor& x, const OptionalTensor& running_mean,
                         const OptionalTensor& running_var, double momentum, Tensor& mean,
                         Tensor& var) {
    CpuNorm own(x);
    Norm& norm = own.norm;
    const Values values{x.const_data_ptr(), storage_of(x)};
    const auto first = [&](int64_t c) {
      const double value = values.at(norm.channels == 1 ? 0 : c * norm.inner);
      return std::isfinite(value) ? value : 0;
    };
    norm.scale = own.fill(0, [](int64_t) { return 1; });
    norm.shift = own.fill(1, [&](int64_t c) { return -first(c); });
    norm.center = own.fill(2, first);
    Task task = make_task(x, norm.inner == 1 ? norm.channels : 1, 1, &norm);
    own.start(task, nullptr);
    const auto kernel = MMACT_SELECT_ISA(norm_kernels).sum;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, begin, end); });
    const Tensor totals = own.totals();
    const double* const sums = totals.const_data_ptr<double>();
    const double count = static_cast<double>(x.numel() / norm.channels);
    const SlotsOf<2> out({mean, var});
    const auto keep = [&](const OptionalTensor& running, int64_t c, double value) {
      if (!running) return;
      const SlotsOf<1> to({*running});
      const double old = Values{to.slots[0].data, to.slots[0].storage}.at(c);
      to.slots[0].put(c, momentum * value + (1 - momentum) * old);
    };
    for (int64_t c = 0; c < norm.channels; ++c) {
      const double shifted = sums[c] / count, square = sums[norm.channels + c] / count;
      const double center = first(c) + shifted, spread = std::max(square - shifted * shifted, 0.0);
      out.slots[0].put(c, center);
      out.slots[1].put(c, spread);
      keep(running_mean, c, center);
      keep(running_var, c, spread * count / (count - 1));
    }
  }

 private:
  // Writes scale * gz + factor * (x - center) + shift.
  void second_pass(const Tensor& gz, const Tensor& x, Tensor& gx) {
    norm.residual = x.const_data_ptr();
    Task task = make_task(gz, 1, 0, &norm);
    task.out = gx.mutable_data_ptr();
    const auto kernel = MMACT_SELECT_ISA(norm_kernels).normalise;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, begin, end); });
  }

  // The sums of the channels, (2, C).
  Tensor totals() const {
    if (norm.inner == 1) return sums.sum(0).narrow(1, 0, norm.channels).contiguous();
    const Tensor totals = at::zeros({2, norm.channels}, at::kDouble);
    double* const to = totals.mutable_data_ptr<double>();
    const double* from = sums.const_data_ptr<double>();
    for (int64_t row = 0; row < sums.size(0); ++row)
      for (int64_t part = 0; part < norm.parts; ++part, from += 2) {
        to[row % norm.channels] += from[0];
        to[norm.channels + row % norm.channels] += from[1];
      }
    return totals;
  }
};

// Runs the kernels of an elementwise op on dense tensors of the same strides, which are not empty.
struct CpuDevice {
  using DeviceNorm = CpuNorm;

  template <class Description>
  static void forward(const Description& op, const Tensor& x, Tensor& y, CpuNorm* norm = nullptr) {
    using Settings = typename Description::Settings;
    Task task = make_task(x, op.groups, op.channel_dim, norm == nullptr ? nullptr : &norm->norm);
    task.out = y.mutable_data_ptr();
    const Tensor table = make_table(op, op.settings.rows(), task);
    const auto kernel = MMACT_SELECT_ISA(kernels<Settings>)().forward;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, op.settings, begin, end); });
  }

  // Writes the gradients of x and, where g has a tensor for them, of the parameters.
  template <class Description, size_t n>
  static void backward(const Description& op, const Tensor& grad, const Tensor& x, Tensor& gx,
                       const std::array<Tensor, n>& g, CpuNorm* norm = nullptr,
                       Tensor* g_residual = nullptr) {
    using Settings = typename Description::Settings;
    Task task = make_task(x, op.groups, op.channel_dim, norm == nullptr ? nullptr : &norm->norm);
    if (norm != nullptr) norm->start(task, g_residual);
    task.grad = grad.const_data_ptr();
    task.out = gx.mutable_data_ptr();
    const Tensor table = make_table(op, op.settings.backward_rows(), task);
    const int64_t entries = op.settings.entries();
    const bool lanes = task.lane_is_channel();
    Tensor sums = at::zeros(
        {task.num_chunks, lanes ? entries : op.groups, lanes ? task.channel_stride : entries},
        at::kDouble);
    task.sums = sums.mutable_data_ptr<double>();
    const auto kernel = MMACT_SELECT_ISA(kernels<Settings>)().backward;
    run_task(task, [&](int64_t begin, int64_t end) { kernel(task, op.settings, begin, end); });
    // The chunks' partial sums, in their order.
    sums = task.num_chunks == 1 ? sums.select(0, 0) : sums.sum(0);
    if (lanes) sums = sums.t().contiguous();
    const double* const totals = sums.const_data_ptr<double>();
    const ValuesOf p(op.parameters);
    const SlotsOf out(g);
    for_groups(op.groups, entries, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        op.settings.gradients(
            p.values, c, [&](int64_t entry) { return totals[c * entries + entry]; }, out.slots);
    });
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
