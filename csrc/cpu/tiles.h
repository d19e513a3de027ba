// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// How the CPU engine cuts a tensor into tiles: runs of vectors in L1 that belong to one channel, or
// that hold one channel per lane. float16 and bfloat16 are converted on their way to L1 and back.
#pragma once

#include "math.h"
#include "norm.h"

namespace mmact {
namespace MMACT_ISA {

// Elements in a tile. Three arrays of it (bins and two terms) stay in a 32 KiB L1 cache; the five
// of CPAB (four terms) in one of 48 KiB, or in L2.
constexpr int kTile = 2048;

// Moves n values between memory and a tile; what is left of the last vector becomes 0.
template <class St>
MMACT_HD inline void read_values(const typename St::Raw* from, int64_t n, typename St::Value* to) {
  using S = Simd<typename St::Value>;
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) S::store(to + i, St::load(from + i));
  if constexpr (!St::kConverts) {
    for (; i < n; ++i) to[i] = from[i];
  } else if (i < n) {
    typename St::Raw rest[S::kWidth] = {};
    for (int64_t j = i; j < n; ++j) rest[j - i] = from[j];
    typename St::Value values[S::kWidth];
    S::store(values, St::load(rest));
    for (int64_t j = i; j < n; ++j) to[j] = values[j - i];
  }
}

template <class St>
MMACT_HD inline void write_values(const typename St::Value* from, int64_t n, typename St::Raw* to) {
  using S = Simd<typename St::Value>;
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) St::store(to + i, S::load(from + i));
  if constexpr (!St::kConverts) {
    for (; i < n; ++i) to[i] = from[i];
  } else if (i < n) {
    typename St::Value values[S::kWidth] = {};
    for (int64_t j = i; j < n; ++j) values[j - i] = from[j];
    typename St::Raw rest[S::kWidth];
    St::store(rest, S::load(values));
    for (int64_t j = i; j < n; ++j) to[j] = rest[j - i];
  }
}

// Calls use(St) with the storage type, one of those of T.
template <class T, class Use>
MMACT_HD inline void with_storage(Storage storage, Use use) {
  if constexpr (std::is_same_v<T, double>)
    use(Plain<double>{});
  else if (storage == Storage::kHalf)
    use(Half{});
  else if (storage == Storage::kBFloat16)
    use(BFloat16{});
  else
    use(Plain<float>{});
}

// Walks the elements [begin, end) of one channel, which lie in memory as runs of `inner`.
template <class Move>
MMACT_HD inline void for_each_run(const Task& task, int64_t channel, int64_t begin, int64_t end,
                                  Move move) {
  const int64_t o = begin / task.inner, i = begin - o * task.inner, size = end - begin;
  int64_t at = (o * task.channels + channel) * task.inner + i, run_end = task.inner - i;
  for (int64_t done = 0; done < size;) {
    const int64_t length = (run_end < size ? run_end : size) - done;
    move(at, done, length);
    done += length;
    at += (task.channels - 1) * task.inner + length;
    run_end += task.inner;
  }
}

// first, first + step, ...; 32 bits of them matter.
template <class T>
MMACT_HD inline typename Simd<T>::U number_from(int64_t first, int64_t step) {
  using U = typename Simd<T>::U;
  using Number = std::make_unsigned_t<typename Simd<T>::Int>;
  return reinterpret_cast<U>(Simd<T>::lanes()) * static_cast<Number>(step) +
         static_cast<Number>(first);
}

// Where in memory a tile can be used in place, without a copy in L1: its first vector, and how far
// it is from one to the next. `at` is -1 if it can't.
struct InPlace {
  int64_t at, step;
};

// The elements of one tile: where they are in memory, and how to bring them to L1 and back. The
// latter are functions of their own, so that kernels are not built for every storage type.
template <class V>
struct ChannelTile {
  using T = V;
  const Task& task;
  int64_t channel, begin, end;

  MMACT_HD int64_t size() const { return end - begin; }
  // Numbers the elements of the tensor: (position in the channel) * channels + channel.
  MMACT_HD typename Simd<T>::U index(int64_t i) const {
    return number_from<T>((begin + i) * task.channels + channel, task.channels);
  }
  MMACT_COLD void read(const void* from, T* to) const {
    with_storage<T>(task.storage, [&](auto st) MMACT_LAMBDA {
      using St = decltype(st);
      for_each_run(task, channel, begin, end,
                   [&](int64_t at, int64_t done, int64_t n) MMACT_LAMBDA {
                     read_values<St>(static_cast<const typename St::Raw*>(from) + at, n, to + done);
                   });
    });
  }
  MMACT_COLD void write(const T* from, void* to) const {
    with_storage<T>(task.storage, [&](auto st) MMACT_LAMBDA {
      using St = decltype(st);
      for_each_run(task, channel, begin, end,
                   [&](int64_t at, int64_t done, int64_t n) MMACT_LAMBDA {
                     write_values<St>(from + done, n, static_cast<typename St::Raw*>(to) + at);
                   });
    });
  }
  // z of x and the residual (or null), which lie in L1 as z will, or in memory in place.
  MMACT_HD void normalise(const T* x, const T* residual, int64_t, T* z) const {
    for_each_run(task, channel, begin, end, [&](int64_t at, int64_t done, int64_t n) MMACT_LAMBDA {
      normalise_run(*task.norm, at, n, x + done, residual == nullptr ? nullptr : residual + done,
                    z + done);
    });
  }
  // Adds the gradient of z to the norm's sums; where the norm is constant, turns it into that of x,
  // after copying it to `copy` if that is not null.
  MMACT_HD void differentiate_norm(const T* x, T* gz, int64_t, T* copy) const {
    for_each_run(task, channel, begin, end, [&](int64_t at, int64_t done, int64_t n) MMACT_LAMBDA {
      if (copy != nullptr) __builtin_memcpy(copy + done, gz + done, n * sizeof(T));
      differentiate_run(task, at, n, x + done, gz + done, begin / task.chunk);
    });
  }
  MMACT_HD InPlace in_place() const {
    constexpr int64_t kWidth = Simd<T>::kWidth;
    if (!task.is_plain() || size() % kWidth != 0 || size() > task.inner) return {-1, kWidth};
    const int64_t o = begin / task.inner, i = begin - o * task.inner;
    if (i + size() > task.inner) return {-1, kWidth};
    return {(o * task.channels + channel) * task.inner + i, kWidth};
  }
};

// Rows [begin, end) of the kWidth channels from `channel` on; one row is one vector.
template <class V>
struct LaneTile {
  using T = V;
  static constexpr int kWidth = Simd<T>::kWidth;
  const Task& task;
  int64_t channel, begin, end;

  MMACT_HD int64_t size() const { return (end - begin) * kWidth; }
  MMACT_HD typename Simd<T>::U index(int64_t i) const {
    return number_from<T>((begin + i / kWidth) * task.channels + channel, 1);
  }
  MMACT_HD int64_t lanes() const {
    return task.channels - channel < kWidth ? task.channels - channel : kWidth;
  }
  MMACT_COLD void read(const void* from, T* to) const {
    const int64_t n = lanes();
    with_storage<T>(task.storage, [&](auto st) MMACT_LAMBDA {
      using St = decltype(st);
      const auto* at = static_cast<const typename St::Raw*>(from) + begin * task.channels + channel;
      for (int64_t row = begin; row < end; ++row, at += task.channels, to += kWidth) {
        if (n == kWidth) {
          Simd<T>::store(to, St::load(at));
        } else {
          Simd<T>::store(to, Simd<T>::set(0));
          read_values<St>(at, n, to);
        }
      }
    });
  }
  MMACT_COLD void write(const T* from, void* to) const {
    const int64_t n = lanes();
    with_storage<T>(task.storage, [&](auto st) MMACT_LAMBDA {
      using St = decltype(st);
      auto* at = static_cast<typename St::Raw*>(to) + begin * task.channels + channel;
      for (int64_t row = begin; row < end; ++row, at += task.channels, from += kWidth) {
        if (n == kWidth)
          St::store(at, Simd<T>::load(from));
        else
          write_values<St>(from, n, at);
      }
    });
  }
  // As in ChannelTile; `step` is from one vector of x, residual, gz and copy to the next.
  MMACT_HD void normalise(const T* x, const T* residual, int64_t step, T* z) const {
    const Norm& norm = *task.norm;
    const auto scale = numbers_of<T>(norm.scale, channel);
    const auto shift = numbers_of<T>(norm.shift, channel);
    for (int64_t i = 0, p = 0; i < size(); i += kWidth, p += step) {
      auto v = Simd<T>::fma(Simd<T>::load(x + p), scale, shift);
      if (residual != nullptr) v += Simd<T>::load(residual + p);
      Simd<T>::store(z + i, v);
    }
  }
  MMACT_HD void differentiate_norm(const T* x, T* gz, int64_t step, T* copy) const {
    using S = Simd<T>;
    const Norm& norm = *task.norm;
    const auto scale = numbers_of<T>(norm.scale, channel);
    const auto center = numbers_of<T>(norm.center, channel);
    auto sum = S::set(0), product = S::set(0);
    for (int64_t i = 0, p = 0; i < size(); i += kWidth, p += step) {
      const auto g = S::load(gz + p);
      sum += g;
      product = S::fma(g, S::load(x + p) - center, product);
      if (copy != nullptr) S::store(copy + p, g);
      if (norm.constant) S::store(gz + p, g * scale);
    }
    double* const to = norm.sums + begin / task.chunk * 2 * norm.stride + channel;
    for (int lane = 0; lane < kWidth; ++lane) {
      to[lane] += sum[lane];
      to[norm.stride + lane] += product[lane];
    }
  }
  MMACT_HD InPlace in_place() const {
    if (!task.is_plain() || lanes() < kWidth) return {-1, kWidth};
    return {begin * task.channels + channel, task.channels};
  }
};

// Calls visit(tile, chunk) for the tiles of the work items [begin, end).
template <class T, class Visit>
MMACT_HD inline void for_each_channel_tile(const Task& task, int64_t begin, int64_t end,
                                           Visit visit) {
  const int64_t elements = task.outer * task.inner;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t chunk = item / task.channels, channel = item - chunk * task.channels;
    const int64_t stop = (chunk + 1) * task.chunk < elements ? (chunk + 1) * task.chunk : elements;
    for (int64_t at = chunk * task.chunk; at < stop;) {
      int64_t next = at + kTile < stop ? at + kTile : stop;
      // Long runs are used in place: a tile ends with its run. Short ones share a tile.
      const int64_t run_end = at - at % task.inner + task.inner;
      if (task.inner >= kTile / 4 && run_end < next) next = run_end;
      visit(ChannelTile<T>{task, channel, at, next}, chunk);
      at = next;
    }
  }
}

template <class T, class Visit>
MMACT_HD inline void for_each_lane_tile(const Task& task, int64_t begin, int64_t end, Visit visit) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr int64_t kRows = kTile / kWidth;
  const int64_t groups = task.num_items() / task.num_chunks;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t chunk = item / groups, first = item % groups * Task::kLaneChannels;
    const int64_t stop =
        (chunk + 1) * task.chunk < task.outer ? (chunk + 1) * task.chunk : task.outer;
    const int64_t last =
        first + Task::kLaneChannels < task.channels ? first + Task::kLaneChannels : task.channels;
    for (int64_t row = chunk * task.chunk; row < stop; row += kRows)
      for (int64_t channel = first; channel < last; channel += kWidth)
        visit(LaneTile<T>{task, channel, row, row + kRows < stop ? row + kRows : stop}, chunk);
  }
}

// Calls visit(tile, chunk) for the tiles of the work items [begin, end) in the layout of the task.
template <class T, bool kLanes, class Visit>
MMACT_HD inline void for_each_tile(const Task& task, int64_t begin, int64_t end, Visit visit) {
  if constexpr (kLanes)
    for_each_lane_tile<T>(task, begin, end, visit);
  else
    for_each_channel_tile<T>(task, begin, end, visit);
}

}  // namespace MMACT_ISA
}  // namespace mmact
