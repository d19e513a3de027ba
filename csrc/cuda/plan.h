// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The division of a tensor among the blocks and threads of a GPU.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace mmact {
namespace cuda {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 256, kMinThreads = 64;  // of a block; powers of two
constexpr int kGroupBytes = 16;              // of each tensor that a thread handles at a time
constexpr int64_t kSharedBytes = 48 * 1024;  // of a block, on every GPU without opting in
constexpr int64_t kTableBytes = 16 * 1024;   // of these for tables

// A dense tensor seen as (outer, channels, inner), as in cpu/task.h: element (o, c, i) is at
// (o * channels + c) * inner + i. The `elements` of one channel are counted by position
// o * inner + i. A block works on one chunk of the positions of one group of channels.
struct Task {
  int64_t channels, inner, elements;
  int64_t groups;  // of channels
  // Behind a norm, whose channels they are: how many neighbours share a column of the table, and
  // how many columns there are. Else every channel has one.
  int64_t per_column, columns;
  int64_t chunk;  // positions in one work item
  // One step of a thread: by how much it moves the position, the position in the run of `inner`,
  // and the place in memory; and what passing the end of the run adds to the latter.
  int64_t step, step_inner, step_offset, next_run;
  int rows;  // of the formula's table that the kernel reads
};

// A normalisation in front of a formula: see Norm in cpu/task.h. Rows of `numbers`, in the
// arithmetic type, are scale, shift and center of the channels.
struct Norm {
  const void* numbers;
  const void* residual;  // or null
  // Backward only.
  bool constant;
  void* grad_residual;  // or null
};

// Partial sums of a backward, (num_chunks, entries, channels), for groups of neighbouring channels.
// With a norm the last two entries are the sums of gz and of gz * (x - center).
struct Sums {
  static constexpr int kOfNorm = 2;
  double* partial;
  int64_t num_chunks, entries, channels, per_group;
};

struct Plan {
  Task task;
  // Neighbours in memory belong to different channels: so do neighbouring threads. A group is then
  // a warp of channels, else one channel.
  bool lanes;
  bool vector;        // 16 bytes per load and store
  bool shared_table;  // the table of a group of channels fits into shared memory
  bool norm;          // a norm is in front
  int threads;
  int64_t num_chunks;
  int bins_per_pass;  // whose sums fit into shared memory at a time
  int64_t shared_bytes;

  int width() const { return lanes ? kWarp : 1; }
  unsigned blocks() const { return static_cast<unsigned>(task.groups * num_chunks); }
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Plans a kernel on x, which must be dense (see ops/tensors.h) and not empty. The division depends
// on sizes, dtype and alignment alone, never on the GPU or its load, so that sums come out the same
// to the bit. `aligned`: all tensors start at a multiple of 16 bytes. `rows`: of the table that the
// kernel reads. `bins` and `terms`: sums that a thread keeps; no bins for a forward kernel.
// The channels at `channel_dim` are divided into `channels` groups of neighbours, which to a kernel
// are the channels. `per_column`: with a norm, Task's; 0 without one.
inline Plan make_plan(const at::Tensor& x, int64_t channels, int64_t channel_dim, bool aligned,
                      int64_t rows, int64_t bins, int64_t terms, int64_t per_column = 0) {
  // Float sums of a thread are flushed to double after kMaxElements. Below kMinElements per thread,
  // setting up a block and adding up its sums would cost more than its elements.
  constexpr int64_t kMaxElements = 256, kBlocks = 2048;
  const int64_t kMinElements = bins > 0 ? 32 : 16;

  Plan plan{};
  Task& task = plan.task;
  const int64_t group = kGroupBytes / static_cast<int64_t>(x.element_size());
  const int64_t value_size = x.scalar_type() == at::kDouble ? 8 : 4;
  task.channels = channels;
  task.per_column = std::max<int64_t>(1, per_column);
  task.columns = channels / task.per_column;
  plan.norm = per_column > 0;
  task.inner = channels == 1 ? x.numel() : x.stride(channel_dim) * (x.size(channel_dim) / channels);
  task.elements = x.numel() / channels;
  plan.lanes = task.inner == 1 && channels > 1;
  task.groups = divide_up(channels, plan.width());

  TORCH_CHECK(rows <= std::numeric_limits<int>::max(), "too many table entries: ", rows);
  task.rows = static_cast<int>(rows);
  int64_t room = kSharedBytes;
  plan.shared_table = rows * plan.width() * value_size <= kTableBytes;
  plan.vector = !plan.lanes && plan.shared_table && aligned && task.inner % group == 0;
  if (plan.norm) plan.shared_table = plan.vector;  // fewer kernels to build
  if (plan.shared_table) room -= rows * plan.width() * value_size;
  const int64_t table_bytes = kSharedBytes - room;

  // Positions that all threads of a block handle at a time.
  const auto span = [&](int64_t threads) { return threads / plan.width() * group; };
  const auto sums_bytes = [&](int64_t threads) { return terms * threads * value_size; };  // a bin's
  const int64_t more = plan.norm && bins > 0 ? Sums::kOfNorm * kMaxThreads * value_size : 0;
  room -= more;
  int64_t threads = kMaxThreads;
  while (threads > kMinThreads &&
         (bins * sums_bytes(threads) > room || task.elements <= span(threads / 2)))
    threads /= 2;
  plan.threads = static_cast<int>(threads);
  plan.shared_bytes = table_bytes + more;
  if (bins > 0) {
    const int64_t passes = divide_up(bins, std::min(bins, room / sums_bytes(threads)));
    plan.bins_per_pass = static_cast<int>(divide_up(bins, passes));
    plan.shared_bytes += plan.bins_per_pass * sums_bytes(threads);
  }

  const int64_t rounds = divide_up(task.elements, span(threads)) * task.groups / kBlocks;
  task.chunk = span(threads) * std::clamp(rounds, kMinElements / group, kMaxElements / group);
  plan.num_chunks = divide_up(task.elements, task.chunk);
  TORCH_CHECK(task.groups * plan.num_chunks <= std::numeric_limits<int>::max(),
              "too many channels for one launch: ", channels);

  task.step = threads / plan.width() * (plan.vector ? group : 1);
  task.step_inner = task.step % task.inner;
  task.step_offset = task.step / task.inner * channels * task.inner + task.step_inner;
  task.next_run = (channels - 1) * task.inner;
  return plan;
}

}  // namespace cuda
}  // namespace mmact
