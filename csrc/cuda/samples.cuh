// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The CUDA engine for kernels whose coefficients belong to a sample, and which may read and sum
// numbers of a pixel, that is of all its channels (see Samples in ../ops/samples.h).
//
// A warp works alone, on a run of pixels of one sample in a block of channels. Where a channel's
// pixels are neighbours in memory, a thread keeps its pixels and goes from channel to channel, and
// the warp adds up a channel's sums; where channels are neighbours, a thread keeps its channel and
// goes from pixel to pixel, and the warp adds up a pixel's. There are no atomics: every sum is
// taken in an order that sizes alone decide.
#pragma once

#include <ATen/OpMathType.h>

#include <algorithm>

#include "../ops/samples.h"
#include "launch.cuh"
#include "plan.h"

namespace mmact {
namespace cuda {

constexpr int kSampleThreads = 128;  // of a block: four warps
constexpr int kThreadPixels = 16;    // that a thread keeps, where pixels are neighbours
constexpr int kBatchRows = 4;        // loads under way at a time, where channels are neighbours

struct SamplesTask {
  int64_t samples, channels, pixels;
  int64_t chunk, num_chunks;  // pixels in a work item
  int64_t block, num_blocks;  // channels in a work item

  int64_t items() const { return samples * num_chunks * num_blocks; }
};

// Cuts the work so that there is enough of it for any GPU, depending on sizes alone. `pixel_sums`:
// the kernel leaves a sum for each pixel and block of channels.
inline SamplesTask make_samples_task(const Samples& s, bool pixel_sums) {
  constexpr int64_t kItems = 8192;
  SamplesTask task{s.samples, s.channels, s.pixels, 0, 0, 0, 0};
  if (s.channels_last) {
    task.block = kWarp;
    task.num_blocks = divide_up(s.channels, kWarp);
    const int64_t rows = s.samples * task.num_blocks * s.pixels / kItems;
    task.chunk = std::clamp<int64_t>(divide_up(rows, kBatchRows) * kBatchRows, 32, 256);
    task.num_chunks = divide_up(s.pixels, task.chunk);
  } else {
    task.chunk = kWarp * kThreadPixels;
    task.num_chunks = divide_up(s.pixels, task.chunk);
    const int64_t channels = s.samples * task.num_chunks * s.channels / kItems;
    task.block = std::min(std::clamp<int64_t>(channels, pixel_sums ? 8 : 1, 64), s.channels);
    task.num_blocks = divide_up(s.channels, task.block);
  }
  TORCH_CHECK(divide_up(task.items() * kWarp, kSampleThreads) <= std::numeric_limits<int>::max(),
              "too many samples or channels for one launch: ", s.samples, " and ", s.channels);
  return task;
}

// Numbers of the channels of samples: number `row` of a channel is at sample * sample_stride + row
// * row_stride + channel.
template <class T>
struct SampleTable {
  const T* numbers;
  int64_t sample_stride, row_stride;
};

// Those of one channel of a sample.
template <class T>
struct SampleRows {
  const T* from;
  int64_t stride;

  __device__ SampleRows(const SampleTable<T>& table, int64_t sample, int64_t channel)
      : from(table.numbers + sample * table.sample_stride + channel), stride(table.row_stride) {}
  __device__ T at(int row) const { return __ldg(from + row * stride); }
};

// Memory that a kernel reads and writes; null where its formula does not.
template <class Raw>
struct SamplesData {
  using T = at::opmath_type<Raw>;
  const Raw* x;
  const Raw* grad;  // may be `out`: an element is read before it is written, by the same thread
  Raw* out;
  const T* pixels;  // (samples, pixels)
  T* sums;          // (num_chunks, samples, sums, channels)
  T* pixel_sums;    // (num_blocks, samples, pixels)
};

// The work item of a warp.
struct SamplesItem {
  int64_t sample, chunk, block;
  int64_t begin, end;   // pixels
  int64_t first, last;  // channels
  bool exists;

  __device__ explicit SamplesItem(const SamplesTask& task) {
    const int64_t number = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
    block = number % task.num_blocks;
    chunk = number / task.num_blocks % task.num_chunks;
    sample = number / task.num_blocks / task.num_chunks;
    exists = sample < task.samples;
    begin = chunk * task.chunk;
    end = begin + task.chunk < task.pixels ? begin + task.chunk : task.pixels;
    first = block * task.block;
    last = first + task.block < task.channels ? first + task.block : task.channels;
  }
  // Where the item's sums number e of `count` are, from the first channel on.
  __device__ int64_t sums(const SamplesTask& task, int count, int e) const {
    return ((chunk * task.samples + sample) * count + e) * task.channels;
  }
};

template <class T>
__device__ T add_warp(T value) {
  for (int other = kWarp / 2; other > 0; other /= 2)
    value += __shfl_down_sync(0xffffffffu, value, other);
  return value;
}

// Pixels are neighbours in memory, and come in vectors of kVector.
template <class Raw, int kVector, class Formula>
__global__ void __launch_bounds__(kSampleThreads)
    pixel_runs_kernel(const __grid_constant__ SamplesTask task, const Formula formula,
                      const __grid_constant__ SamplesData<Raw> data) {
  using T = at::opmath_type<Raw>;
  constexpr int kRounds = kThreadPixels / kVector;
  struct alignas(kVector * sizeof(Raw)) Pack {
    Raw values[kVector];
  };
  const SamplesItem item(task);
  if (!item.exists) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t mine = item.begin + lane * kVector;  // and every kWarp * kVector pixels further on
  const auto at = [&](int round) { return mine + round * kWarp * kVector; };

  T pixels[kThreadPixels], pixel_sums[kThreadPixels];
#pragma unroll
  for (int r = 0; r < kRounds; ++r)
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const bool read = Formula::kPixels && data.pixels != nullptr && at(r) < item.end;
      pixels[r * kVector + v] = read ? data.pixels[item.sample * task.pixels + at(r) + v] : T(1);
      pixel_sums[r * kVector + v] = 0;
    }

  for (int64_t channel = item.first; channel < item.last; ++channel) {
    const int64_t run = (item.sample * task.channels + channel) * task.pixels;
    const auto f = formula.load(item.sample, channel);
    T sums[Formula::kSums > 0 ? Formula::kSums : 1];
#pragma unroll
    for (int e = 0; e < Formula::kSums; ++e) sums[e] = 0;
    Pack packs[kRounds], grads[kRounds];
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (at(r) >= item.end) continue;
      const int64_t offset = run + at(r);
      if (Formula::kX) packs[r] = read_global(reinterpret_cast<const Pack*>(data.x + offset));
      if (Formula::kGrad) grads[r] = read_global(reinterpret_cast<const Pack*>(data.grad + offset));
    }
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (at(r) >= item.end) continue;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const T x = Formula::kX ? static_cast<T>(packs[r].values[v]) : T(0);
        const T grad = Formula::kGrad ? static_cast<T>(grads[r].values[v]) : T(0);
        const T y =
            formula.element(f, x, grad, pixels[r * kVector + v], pixel_sums[r * kVector + v], sums);
        if (Formula::kOut) packs[r].values[v] = static_cast<Raw>(y);
      }
      if (Formula::kOut) write_global(reinterpret_cast<Pack*>(data.out + run + at(r)), packs[r]);
    }
    const int count = formula.sums();
#pragma unroll
    for (int e = 0; e < Formula::kSums; ++e) {
      if (e >= count) break;
      const T sum = add_warp(sums[e]);
      if (lane == 0) data.sums[item.sums(task, count, e) + channel] = formula.total(sum);
    }
  }
  if (!Formula::kPixelSums || data.pixel_sums == nullptr) return;
  T* const to = data.pixel_sums + (item.block * task.samples + item.sample) * task.pixels;
#pragma unroll
  for (int r = 0; r < kRounds; ++r)
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      if (at(r) < item.end) to[at(r) + v] = pixel_sums[r * kVector + v];
}

// Channels are neighbours in memory. Threads whose channel does not exist add nothing.
template <class Raw, class Formula>
__global__ void __launch_bounds__(kSampleThreads)
    channel_runs_kernel(const __grid_constant__ SamplesTask task, const Formula formula,
                        const __grid_constant__ SamplesData<Raw> data) {
  using T = at::opmath_type<Raw>;
  const SamplesItem item(task);
  if (!item.exists) return;
  const int lane = threadIdx.x % kWarp;
  const bool present = item.first + lane < item.last;
  const int64_t channel = present ? item.first + lane : item.first;
  const auto f = formula.load(item.sample, channel);
  T sums[Formula::kSums > 0 ? Formula::kSums : 1];
#pragma unroll
  for (int e = 0; e < Formula::kSums; ++e) sums[e] = 0;

  for (int64_t row = item.begin; row < item.end; row += kBatchRows) {
    Raw xs[kBatchRows], grads[kBatchRows];
    const auto place = [&](int j) {
      return (item.sample * task.pixels + row + j) * task.channels + channel;
    };
#pragma unroll
    for (int j = 0; j < kBatchRows; ++j) {
      if (row + j >= item.end || !present) continue;
      if (Formula::kX) xs[j] = read_global(data.x + place(j));
      if (Formula::kGrad) grads[j] = read_global(data.grad + place(j));
    }
#pragma unroll
    for (int j = 0; j < kBatchRows; ++j) {
      if (row + j >= item.end) continue;  // the same for the whole warp
      const int64_t pixel = item.sample * task.pixels + row + j;
      T number = 1, pixel_sum = 0;
      if (Formula::kPixels && data.pixels != nullptr) number = __ldg(data.pixels + pixel);
      if (present) {
        const T x = Formula::kX ? static_cast<T>(xs[j]) : T(0);
        const T grad = Formula::kGrad ? static_cast<T>(grads[j]) : T(0);
        const T y = formula.element(f, x, grad, number, pixel_sum, sums);
        if (Formula::kOut) write_global(data.out + place(j), static_cast<Raw>(y));
      }
      if (Formula::kPixelSums && data.pixel_sums != nullptr) {
        pixel_sum = add_warp(pixel_sum);
        if (lane == 0) data.pixel_sums[item.block * task.samples * task.pixels + pixel] = pixel_sum;
      }
    }
  }
  const int count = formula.sums();
#pragma unroll
  for (int e = 0; e < Formula::kSums; ++e) {
    if (e >= count) break;
    if (present) data.sums[item.sums(task, count, e) + channel] = formula.total(sums[e]);
  }
}

template <class Raw, class Formula>
void launch_samples(const SamplesTask& task, bool channels_last, const Formula& formula,
                    const SamplesData<Raw>& data) {
  constexpr int kVector = kGroupBytes / sizeof(Raw);
  const auto blocks = static_cast<unsigned>(divide_up(task.items() * kWarp, kSampleThreads));
  const auto aligned = [](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % kGroupBytes == 0;  // null is
  };
  if (channels_last)
    launch_kernel(channel_runs_kernel<Raw, Formula>, blocks, kSampleThreads, 0, task, formula,
                  data);
  else if (task.pixels % kVector == 0 && aligned(data.x) && aligned(data.grad) && aligned(data.out))
    launch_kernel(pixel_runs_kernel<Raw, kVector, Formula>, blocks, kSampleThreads, 0, task,
                  formula, data);
  else
    launch_kernel(pixel_runs_kernel<Raw, 1, Formula>, blocks, kSampleThreads, 0, task, formula,
                  data);
}

}  // namespace cuda
}  // namespace mmact
