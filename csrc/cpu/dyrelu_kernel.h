// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Dynamic ReLU on the CPU engine. Included once per instruction set, after engine.h and inside its
// namespace.
//
// A work item is a run of pixels of one sample in a block of channels: the pixels' attention is
// read once for all channels of the block, and its gradient summed over them in L1.

template <class T>
struct PixelBuffer {
  alignas(64) T values[kTile];

  MMACT_HD void fill(const T* from, int64_t count, T rest) {
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
    for (int64_t i = count; i < kTile; ++i) values[i] = rest;
  }
};

// What a work item works on.
struct DyreluPlace {
  int64_t sample, chunk, block;
  int64_t begin, end;    // pixels
  int64_t first, last;   // channels

  MMACT_HD DyreluPlace(const DyreluTask& d, int64_t item) {
    const int64_t pixels = d.task.outer * d.task.inner;
    block = item % d.num_blocks;
    chunk = item / d.num_blocks % d.task.num_chunks;
    sample = item / d.num_blocks / d.task.num_chunks;
    begin = chunk * d.task.chunk;
    end = begin + d.task.chunk < pixels ? begin + d.task.chunk : pixels;
    first = block * DyreluTask::kBlock;
    last = first + DyreluTask::kBlock < d.task.channels ? first + DyreluTask::kBlock
                                                        : d.task.channels;
  }
  // The sample as a task of its own.
  template <class Raw>
  MMACT_HD Task task(const DyreluTask& d) const {
    const int64_t start = sample * d.task.outer * d.task.channels * d.task.inner;
    Task task = d.task;
    task.x = static_cast<const Raw*>(task.x) + start;
    task.grad = static_cast<const Raw*>(task.grad) + start;
    task.out = static_cast<Raw*>(task.out) + start;
    return task;
  }
  template <class T>
  MMACT_HD void read_attention(const DyreluTask& d, PixelBuffer<T>& to) const {
    const T* const from = static_cast<const T*>(d.attention);
    const int64_t start = sample * d.task.outer * d.task.inner + begin;
    to.fill(from == nullptr ? nullptr : from + start, from == nullptr ? 0 : end - begin, 1);
  }
};

template <class St, int kCount, bool kLanes>
struct DyreluTile {
  using T = typename St::Value;
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int kStep = kLanes ? S::kWidth : 1;  // channels

  // The functions of the tile's channels.
  MMACT_HD static auto load(const DyreluTask& d, const RowTable& table, int64_t column) {
    using Memory = MemoryRows<T, kLanes>;
    const Memory rows{static_cast<const T*>(table.numbers) + column, table.stride};
    if constexpr (kCount > 0) {
      using Local = LocalRows<V, 2 * kCount>;
      return MaxAffine<S, kCount, Local>{Local::load(rows), kCount};
    } else {
      return MaxAffine<S, 0, Memory>{rows, d.functions};
    }
  }
  MMACT_HD static auto make(const Task& task, int64_t channel, const DyreluPlace& place) {
    if constexpr (kLanes)
      return LaneTile<St>{task, channel, place.begin, place.end};
    else
      return ChannelTile<St>{task, channel, place.begin, place.end};
  }
  // The attention of the vector of elements from number i of the tile on.
  MMACT_HD static V attention(const PixelBuffer<T>& pixels, int64_t i) {
    if constexpr (kLanes)
      return S::set(pixels.values[i / S::kWidth]);
    else
      return S::load(pixels.values + i);
  }
};

template <class St, int kCount, bool kAttention, bool kLanes>
struct DyreluForward {
  static void run(const DyreluTask& d, const RowTable& table, int64_t begin, int64_t end) {
    using T = typename St::Value;
    using Tile = DyreluTile<St, kCount, kLanes>;
    using V = typename Tile::V;
    PixelBuffer<T> attention;
    for (int64_t item = begin; item < end; ++item) {
      const DyreluPlace place(d, item);
      const Task task = place.task<typename St::Raw>(d);
      if constexpr (kAttention) place.read_attention(d, attention);
      for (int64_t channel = place.first; channel < place.last; channel += Tile::kStep) {
        const auto f = Tile::load(d, table, place.sample * d.columns + channel);
        forward_tile<St>(
            task,
            [&](V x, int64_t i) MMACT_LAMBDA {
              V which;
              const V y = f.evaluate(x, which);
              if constexpr (kAttention) return y * Tile::attention(attention, i);
              return y;
            },
            Tile::make(task, channel, place));
      }
    }
  }
};

template <class St, int kCount, bool kAttention, bool kLanes>
struct DyreluBackward {
  static void run(const DyreluTask& d, const RowTable& table, int64_t begin, int64_t end) {
    using T = typename St::Value;
    using S = Simd<T>;
    using Tile = DyreluTile<St, kCount, kLanes>;
    using V = typename Tile::V;
    const int entries = 2 * d.functions;
    PixelBuffer<T> attention, grad_attention;
    for (int64_t item = begin; item < end; ++item) {
      const DyreluPlace place(d, item);
      const Task task = place.task<typename St::Raw>(d);
      if constexpr (kAttention) {
        place.read_attention(d, attention);
        grad_attention.fill(nullptr, 0, 0);
      }
      for (int64_t channel = place.first; channel < place.last; channel += Tile::kStep) {
        const int64_t column = place.sample * d.columns + channel;
        const auto f = Tile::load(d, table, column);
        constexpr int kSums = decltype(f)::kSums;
        backward_sums<St, kSums>(
            task,
            [&](V x, V grad, int64_t i, V(&sums)[kSums]) MMACT_LAMBDA {
              V which;
              const V y = f.evaluate(x, which);
              if constexpr (kAttention) {
                T* const to = grad_attention.values + i;
                S::store(to, S::fma(grad, y, S::load(to)));
                grad = grad * Tile::attention(attention, i);
              }
              return f.backward(x, grad, which, sums);
            },
            Tile::make(task, channel, place), entries,
            Flush<T, kLanes>::to(task, place.chunk, column, entries));
      }
      if (kAttention && d.grad_attention != nullptr) write(d, place, grad_attention);
    }
  }

  // In a tile of lanes a row of sums belongs to one pixel.
  MMACT_HD static void write(const DyreluTask& d, const DyreluPlace& place,
                             const PixelBuffer<typename St::Value>& sums) {
    using T = typename St::Value;
    using S = Simd<T>;
    const int64_t pixels = d.task.outer * d.task.inner;
    T* const to = static_cast<T*>(d.grad_attention) +
                  (place.block * d.samples + place.sample) * pixels + place.begin;
    for (int64_t i = 0; i < place.end - place.begin; ++i) {
      if constexpr (kLanes)
        to[i] = static_cast<T>(S::sum(S::load(sums.values + i * S::kWidth)));
      else
        to[i] = sums.values[i];
    }
  }
};

template <template <class, int, bool, bool> class Run, bool kLanes>
void run_dyrelu_in_layout(Storage storage, const DyreluTask& d, const RowTable& table,
                          int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    if (d.functions != 2)
      Run<St, 0, true, kLanes>::run(d, table, begin, end);
    else if (d.attention != nullptr)
      Run<St, 2, true, kLanes>::run(d, table, begin, end);
    else
      Run<St, 2, false, kLanes>::run(d, table, begin, end);
  });
}

template <template <class, int, bool, bool> class Run>
void run_dyrelu(Storage storage, const DyreluTask& d, const RowTable& table, int64_t begin,
                int64_t end) {
  if (d.task.lane_is_channel())
    run_dyrelu_in_layout<Run, true>(storage, d, table, begin, end);
  else
    run_dyrelu_in_layout<Run, false>(storage, d, table, begin, end);
}

extern const DyreluKernels dyrelu_kernels{run_dyrelu<DyreluForward>, run_dyrelu<DyreluBackward>};
