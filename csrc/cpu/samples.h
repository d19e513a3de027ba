// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The CPU engine for kernels on a SamplesTask.
//
// A work item is a run of pixels of one sample in a block of channels: the pixels' numbers are read
// once for all channels of the block, and sums over channels stay in L1.
#pragma once

#include "engine.h"

namespace mmact {
namespace MMACT_ISA {

template <class T>
struct PixelBuffer {
  alignas(64) T values[kTile];

  MMACT_HD void fill(T value, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = value;
  }
  // The rest of the last vector becomes 0.
  MMACT_HD void read(const T* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
    for (int64_t i = count; i % Simd<T>::kWidth != 0; ++i) values[i] = 0;
  }
};

struct SamplesItem {
  int64_t sample, chunk, block;
  int64_t begin, end;   // pixels
  int64_t first, last;  // channels

  // Items that follow each other lie so in memory, as far as blocks allow.
  MMACT_HD SamplesItem(const SamplesTask& s, int64_t item, bool lanes) {
    const int64_t in_sample = item % (s.num_blocks * s.task.num_chunks);
    sample = item / (s.num_blocks * s.task.num_chunks);
    block = lanes ? in_sample % s.num_blocks : in_sample / s.task.num_chunks;
    chunk = lanes ? in_sample / s.num_blocks : in_sample % s.task.num_chunks;
    begin = chunk * s.task.chunk;
    end = begin + s.task.chunk < pixels(s) ? begin + s.task.chunk : pixels(s);
    first = block * s.block;
    last = first + s.block < s.task.channels ? first + s.block : s.task.channels;
  }
  MMACT_HD static int64_t pixels(const SamplesTask& s) { return s.task.outer * s.task.inner; }

  // The sample as a task of its own.
  MMACT_HD Task task(const SamplesTask& s) const {
    const int64_t start = sample * s.task.channels * pixels(s) * s.task.element_size();
    Task task = s.task;
    task.x = static_cast<const char*>(task.x) + start;
    task.grad = static_cast<const char*>(task.grad) + start;
    task.out = static_cast<char*>(task.out) + start;
    return task;
  }
};

// A tile of an item, as a kernel sees it.
template <class Value, bool kLanes>
struct SamplesTile {
  using T = Value;
  using S = Simd<T>;
  using V = typename S::V;

  const SamplesTask& s;
  const SamplesItem& item;
  const Task& task;  // the sample's
  int64_t channel;
  const PixelBuffer<T>& pixels;
  PixelBuffer<T>& pixel_sums;

  MMACT_HD auto tile() const {
    if constexpr (kLanes)
      return LaneTile<T>{task, channel, item.begin, item.end};
    else
      return ChannelTile<T>{task, channel, item.begin, item.end};
  }
  MMACT_HD Column<T, kLanes> rows(const SampleTable& table) const {
    return {static_cast<const T*>(table.numbers) + item.sample * table.sample_stride + channel,
            table.row_stride};
  }
  MMACT_HD Flush<T, kLanes> flush(int entries) const {
    const int64_t stride = s.task.channel_stride;
    return {s.task.sums + (item.chunk * s.samples + item.sample) * entries * stride + channel,
            stride};
  }
  // The pixels' numbers of the vector of elements from number i of the tile on.
  MMACT_HD V pixel(int64_t i) const {
    if constexpr (kLanes)
      return S::set(pixels.values[i / S::kWidth]);
    else
      return S::load(pixels.values + i);
  }
  // Adds a * b to the pixels' sums.
  MMACT_HD void add(int64_t i, V a, V b) const {
    T* const to = pixel_sums.values + i;
    S::store(to, S::fma(a, b, S::load(to)));
  }
};

// Calls visit(tile) for the tiles of the work items [begin, end). Pixels without numbers have 1.
template <class T, bool kLanes, bool kPixels, bool kPixelSums, class Visit>
MMACT_HD inline void for_each_samples_tile(const SamplesTask& s, int64_t begin, int64_t end,
                                           Visit visit) {
  using S = Simd<T>;
  PixelBuffer<T> pixels, pixel_sums;
  const int64_t count = SamplesItem::pixels(s);
  const T* const numbers = static_cast<const T*>(s.pixels);
  if (numbers == nullptr) pixels.fill(1, kTile);
  for (int64_t number = begin; number < end; ++number) {
    const SamplesItem item(s, number, kLanes);
    const Task task = item.task(s);
    const int64_t size = item.end - item.begin;
    if (kPixels && numbers != nullptr)
      pixels.read(numbers + item.sample * count + item.begin, size);
    constexpr int64_t kStep = kLanes ? S::kWidth : 1;
    if constexpr (kPixelSums)
      pixel_sums.fill(0, (size * kStep + S::kWidth - 1) / S::kWidth * S::kWidth);
    for (int64_t channel = item.first; channel < item.last; channel += kStep)
      visit(SamplesTile<T, kLanes>{s, item, task, channel, pixels, pixel_sums});
    if (!kPixelSums || s.pixel_sums == nullptr) continue;
    T* const to =
        static_cast<T*>(s.pixel_sums) + (item.block * s.samples + item.sample) * count + item.begin;
    for (int64_t i = 0; i < size; ++i) {
      if constexpr (kLanes)  // a vector holds one pixel's channels
        to[i] = static_cast<T>(S::sum(S::load(pixel_sums.values + i * S::kWidth)));
      else
        to[i] = pixel_sums.values[i];
    }
  }
}

}  // namespace MMACT_ISA
}  // namespace mmact
