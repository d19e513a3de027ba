// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The CPU engine: runs a formula over a tensor in any layout and storage type, and sums what its
// backward adds per channel and segment.
//
// The tensor is cut into tiles: runs of vectors in L1 that belong to one channel, or that hold one
// channel per lane. The kernels at the end walk the tiles of the task's layout, load the channel's
// function, and call forward_tile or backward_tile. Arithmetic is in T, float or double; float16
// and bfloat16 are converted on their way to L1 and back.
#pragma once

#include "math.h"
#include "norm.h"
#include "twice.h"

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
  if (i < n) {
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
  if (i < n) {
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
  int64_t done = 0;
  while (begin < end) {
    const int64_t o = begin / task.inner, i = begin % task.inner;
    const int64_t length = end - begin < task.inner - i ? end - begin : task.inner - i;
    move((o * task.channels + channel) * task.inner + i, done, length);
    begin += length;
    done += length;
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
    const int64_t i = begin % task.inner;
    if (!task.is_plain() || size() % kWidth != 0 || i + size() > task.inner) return {-1, kWidth};
    return {((begin / task.inner) * task.channels + channel) * task.inner + i, kWidth};
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

// Forward ----------------------------------------------------------------------------------------

// Where a tile's x is read and its values are written: in memory, or in the given buffer, which a
// norm's z is always read from.
template <class Tile>
struct ForwardTile {
  using T = typename Tile::T;
  using S = Simd<T>;
  const T* x;
  T* out;
  int64_t step, out_step;  // from one vector to the next
  bool buffered;           // whether `out` is the buffer

  MMACT_HD ForwardTile(const Task& task, const Tile& tile, T* buffer)
      : x(buffer), out(buffer), step(S::kWidth), out_step(S::kWidth), buffered(true) {
    const InPlace place = tile.in_place();
    if (place.at >= 0) {
      out = static_cast<T*>(task.out) + place.at;
      out_step = place.step;
      buffered = false;
      if (task.norm == nullptr) {
        x = static_cast<const T*>(task.x) + place.at;
        step = place.step;
        return;
      }
    }
    if (task.norm != nullptr) {
      normalise(task, tile, place, buffer);
    } else {
      pad(tile, buffer);
      tile.read(task.x, buffer);
    }
  }
  // What is left of the last vector of a buffer becomes 0.
  MMACT_HD static void pad(const Tile& tile, T* buffer) {
    const int64_t last = tile.size() / S::kWidth * S::kWidth;
    if (last < tile.size()) S::store(buffer + last, S::set(0));
  }
  MMACT_COLD static void normalise(const Task& task, const Tile& tile, const InPlace& place, T* z) {
    const Norm& norm = *task.norm;
    alignas(64) T rest[kTile];
    const T* residual = static_cast<const T*>(norm.residual);
    if (place.at >= 0) {
      if (residual != nullptr) residual += place.at;
      tile.normalise(static_cast<const T*>(task.x) + place.at, residual, place.step, z);
      return;
    }
    pad(tile, z);
    tile.read(task.x, z);
    if (residual != nullptr) {
      tile.read(residual, rest);
      residual = rest;
    }
    tile.normalise(z, residual, S::kWidth, z);
  }
};

// f(x, i) gives the values of the vector of elements from number i of the tile on.
template <class F, class Tile>
MMACT_HD inline void forward_tile(const Task& task, const F& f, const Tile& tile) {
  using T = typename Tile::T;
  using S = Simd<T>;
  alignas(64) T buffer[kTile];
  const ForwardTile<Tile> at(task, tile, buffer);
  for (int64_t i = 0, p = 0, q = 0; i < tile.size(); i += S::kWidth, p += at.step, q += at.out_step)
    S::store(at.out + q, f(S::load(at.x + p), i));
  if (at.buffered) tile.write(buffer, task.out);
}

// The same for functions on Twice<Simd<T>>: f(x) gives the values of two vectors.
template <class F, class Tile>
MMACT_HD inline void forward_tile_twice(const Task& task, const F& f, const Tile& tile) {
  using T = typename Tile::T;
  using S = Simd<T>;
  alignas(64) T buffer[kTile];
  const ForwardTile<Tile> at(task, tile, buffer);
  for (int64_t i = 0, p = 0, q = 0; i < tile.size();
       i += 2 * S::kWidth, p += 2 * at.step, q += 2 * at.out_step) {
    const bool both = i + S::kWidth < tile.size();
    const auto y = f({S::load(at.x + p), S::load(at.x + (both ? p + at.step : p))});
    S::store(at.out + q, y.first);
    if (both) S::store(at.out + q + at.out_step, y.second);
  }
  if (at.buffered) tile.write(buffer, task.out);
}

// Backward ---------------------------------------------------------------------------------------

// Adds a vector of sums to a tile's partial sums: entry e of channel c is at e * stride + c.
template <class T, bool kLanes>
struct Flush {
  double* sums;
  int64_t stride;

  // The partial sums of `chunk`, from `channel` on.
  MMACT_HD static Flush to(const Task& task, int64_t chunk, int64_t channel, int64_t entries) {
    return {task.sums + chunk * entries * task.channel_stride + channel, task.channel_stride};
  }
  MMACT_HD void operator()(int64_t entry, typename Simd<T>::V v) const {
    double* const to = sums + entry * stride;
    if constexpr (kLanes)
      for (int lane = 0; lane < Simd<T>::kWidth; ++lane) to[lane] += v[lane];
    else
      *to += Simd<T>::sum(v);
  }
};

// For formulas that only sum: f(x, i, sums) adds the elements from number i of the tile on.
template <int kSums, class F, class Tile, class Flush>
MMACT_HD inline void forward_sums(const Task& task, const F& f, const Tile& tile, Flush flush) {
  using T = typename Tile::T;
  using S = Simd<T>;
  alignas(64) T buffer[kTile];
  const ForwardTile<Tile> at(task, tile, buffer);
  typename S::V sums[kSums];
  for (int e = 0; e < kSums; ++e) sums[e] = S::set(0);
  for (int64_t i = 0, p = 0; i < tile.size(); i += S::kWidth, p += at.step)
    f(S::load(at.x + p), i, sums);
  for (int e = 0; e < kSums; ++e) flush(e, sums[e]);
}

// The same with grad, for the gradient of x.
template <class Tile>
struct BackwardTile : ForwardTile<Tile> {
  using Base = ForwardTile<Tile>;
  using typename Base::S;
  using typename Base::T;
  const T* grad;

  MMACT_HD BackwardTile(const Task& task, const Tile& tile, T* x_buffer, T* grad_buffer)
      : Base(task, tile, x_buffer), grad(grad_buffer) {
    if (!this->buffered) {
      grad = static_cast<const T*>(task.grad) + (this->out - static_cast<T*>(task.out));
      return;
    }
    Base::pad(tile, grad_buffer);
    tile.read(task.grad, grad_buffer);
  }
  // Brings the results to memory; `scratch` is overwritten.
  MMACT_HD void finish(const Task& task, const Tile& tile, T* scratch) const {
    if (task.norm != nullptr)
      differentiate(task, tile, scratch);
    else if (this->buffered)
      tile.write(this->out, task.out);
  }

 private:
  MMACT_COLD void differentiate(const Task& task, const Tile& tile, T* scratch) const {
    const Norm& norm = *task.norm;
    if (!this->buffered) {
      const int64_t at = this->out - static_cast<T*>(task.out);
      T* const gz =
          norm.grad_residual == nullptr ? nullptr : static_cast<T*>(norm.grad_residual) + at;
      tile.differentiate_norm(static_cast<const T*>(task.x) + at, this->out, this->out_step, gz);
      return;
    }
    if (norm.grad_residual != nullptr) tile.write(this->out, norm.grad_residual);
    tile.read(task.x, scratch);
    tile.differentiate_norm(scratch, this->out, S::kWidth, nullptr);
    tile.write(this->out, task.out);
  }
};

// For formulas that add every element to the same `count` sums, at most kSums, which stay in
// registers. f(x, grad, i, sums) gives the gradient of the elements from number i of the tile on.
template <int kSums, class F, class Tile, class Flush>
MMACT_HD inline void backward_sums(const Task& task, const F& f, const Tile& tile, int count,
                                   Flush flush) {
  using T = typename Tile::T;
  using S = Simd<T>;
  alignas(64) T x_buffer[kTile], grad_buffer[kTile];
  const BackwardTile<Tile> at(task, tile, x_buffer, grad_buffer);
  typename S::V sums[kSums];
  for (int e = 0; e < count; ++e) sums[e] = S::set(0);
  for (int64_t i = 0, p = 0, q = 0; i < tile.size(); i += S::kWidth, p += at.step, q += at.out_step)
    S::store(at.out + q, f(S::load(at.x + p), S::load(at.grad + q), i, sums));
  at.finish(task, tile, grad_buffer);
  for (int e = 0; e < count; ++e) flush(e, sums[e]);
}

// Adds to kBins bins, starting with `first`, the terms of the elements that belong to them. The
// accumulators stay in registers: a masked addition per bin and term is quicker than one gather and
// one scatter per element.
template <class T, int kTerms, int kBins, class Flush>
MMACT_HD inline void add_bins(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                              int64_t size, int first, Flush flush) {
  using S = Simd<T>;
  typename S::V sums[kBins][kTerms];
#pragma GCC unroll 8
  for (int b = 0; b < kBins; ++b)
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) sums[b][t] = S::set(0);
  for (int64_t i = 0; i < size; i += S::kWidth) {
    typename S::I bin;
    __builtin_memcpy(&bin, bins + i, sizeof(bin));
    typename S::V term[kTerms];
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) term[t] = S::load(terms[t] + i);
#pragma GCC unroll 8
    for (int b = 0; b < kBins; ++b) {
      const auto here = S::equal(bin, first + b);
#pragma GCC unroll 4
      for (int t = 0; t < kTerms; ++t) sums[b][t] = S::add_where(sums[b][t], here, term[t]);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBins; ++b)
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) flush((first + b) * kTerms + t, sums[b][t]);
}

// Bins up to which masked additions are the quicker way: AVX-512 has them in one instruction.
constexpr int kMaskedBins = MMACT_ISA_LEVEL == 2 ? 24 : 6;

// The same for many bins, `count` <= kScattered of them: every lane has accumulators of its own in
// L1. If these are not all bins there are, what belongs to no bin of these is added to one that
// nobody reads.
constexpr int kScattered = 64;

template <class T, int kTerms, bool kAll, class Flush>
MMACT_HD inline void scatter_bins(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                                  int64_t size, int first, int count, Flush flush) {
  using S = Simd<T>;
  constexpr int kWidth = S::kWidth;
  alignas(64) T sums[kScattered + 1][kTerms][kWidth];
  __builtin_memset(sums, 0, sizeof(sums[0]) * (count + 1));
  for (int64_t i = 0; i < size; i += kWidth)
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      auto bin = bins[i + lane] - first;
      if constexpr (!kAll) bin = 0 <= bin && bin < count ? bin : count;
#pragma GCC unroll 4
      for (int t = 0; t < kTerms; ++t) sums[bin][t][lane] += terms[t][i + lane];
    }
  for (int b = 0; b < count; ++b)
    for (int t = 0; t < kTerms; ++t) flush((first + b) * kTerms + t, S::load(sums[b][t]));
}

// For formulas that add every element to the sums of one bin of several.
template <class F, class Tile, class Flush>
MMACT_HD inline void backward_bins(const Task& task, const F& f, const Tile& tile, int num_bins,
                                   Flush flush) {
  using T = typename Tile::T;
  using S = Simd<T>;
  constexpr int kTerms = F::kTerms;
  alignas(64) T x_buffer[kTile];
  alignas(64) T terms[kTerms][kTile];
  alignas(64) typename S::Int bins[kTile];
  const BackwardTile<Tile> at(task, tile, x_buffer, terms[0]);
  for (int64_t i = 0, p = 0, q = 0; i < tile.size();
       i += S::kWidth, p += at.step, q += at.out_step) {
    typename S::I bin;
    typename S::V term[kTerms];
    const typename S::V gx = f.backward(S::load(at.x + p), S::load(at.grad + q), bin, term);
    __builtin_memcpy(bins + i, &bin, sizeof(bin));
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) S::store(terms[t] + i, term[t]);
    S::store(at.out + q, gx);
  }

  int first = 0;
  if (kMaskedBins < num_bins && num_bins <= kScattered) {
    scatter_bins<T, kTerms, true>(bins, terms, tile.size(), 0, num_bins, flush);
    first = num_bins;
  }
  for (; num_bins - first > kMaskedBins; first += kScattered) {
    const int count = num_bins - first < kScattered ? num_bins - first : kScattered;
    scatter_bins<T, kTerms, false>(bins, terms, tile.size(), first, count, flush);
  }
  for (; first + 6 <= num_bins; first += 6)
    add_bins<T, kTerms, 6>(bins, terms, tile.size(), first, flush);
  for (; first + 2 <= num_bins; first += 2)
    add_bins<T, kTerms, 2>(bins, terms, tile.size(), first, flush);
  for (; first < num_bins; ++first) add_bins<T, kTerms, 1>(bins, terms, tile.size(), first, flush);
  at.finish(task, tile, terms[0]);
}

// Layouts ----------------------------------------------------------------------------------------

// Calls visit(tile, chunk) for the tiles of the work items [begin, end).
template <class T, class Visit>
MMACT_HD inline void for_each_channel_tile(const Task& task, int64_t begin, int64_t end,
                                           Visit visit) {
  const int64_t elements = task.outer * task.inner;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t chunk = item / task.channels, channel = item % task.channels;
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

// Kernels ----------------------------------------------------------------------------------------

// A kind of table, as a type.
template <template <class> class Table>
struct TableType {
  template <class T>
  using Of = Table<T>;
};

// The column of a channel, or of those from it on if a lane is a channel.
template <class T, bool kLanes, template <class> class Table>
MMACT_HD inline Column<T, kLanes, Table> column_of(const Task& task, int64_t channel) {
  return {static_cast<const T*>(task.table) + channel * task.table_channel, task.table_row};
}

template <class T, class Formula, template <class> class Table, bool kLanes, bool kTwice>
void run_forward(const Task& task, const Formula& formula, int64_t begin, int64_t end) {
  using S = Simd<T>;
  for_each_tile<T, kLanes>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
    const auto column = column_of<T, kLanes, Table>(task, tile.channel);
    if constexpr (kTwice) {
      const auto f =
          formula.template load<Twice<S>>(TwiceColumn<std::decay_t<decltype(column)>>{column});
      forward_tile_twice(
          task, [&](const typename Twice<S>::V& x) MMACT_LAMBDA { return f.forward(x, 0); }, tile);
    } else {
      const auto f = formula.template load<S>(column);
      forward_tile(
          task,
          [&](typename S::V x, int64_t i) MMACT_LAMBDA { return f.forward(x, tile.index(i)); },
          tile);
    }
  });
}

template <class T, class Formula, template <class> class Table, bool kLanes, bool kBins>
void run_backward(const Task& task, const Formula& formula, int entries, int64_t begin,
                  int64_t end) {
  using V = typename Simd<T>::V;
  for_each_tile<T, kLanes>(task, begin, end, [&](const auto& tile, int64_t chunk) MMACT_LAMBDA {
    const auto f = formula.template load<Simd<T>>(column_of<T, kLanes, Table>(task, tile.channel));
    const auto flush = Flush<T, kLanes>::to(task, chunk, tile.channel, entries);
    if constexpr (kBins) {
      backward_bins(task, f, tile, entries / f.kTerms, flush);
    } else {
      constexpr int kSums = std::decay_t<decltype(f)>::kSums;
      backward_sums<kSums>(
          task,
          [&](V x, V grad, int64_t i, V(&sums)[kSums])
              MMACT_LAMBDA { return f.backward(x, grad, tile.index(i), sums); },
          tile, entries, flush);
    }
  });
}

// Calls run(T(), table_of, lanes) in the arithmetic and layout of the task. Where a lane is a
// channel it looks up a table of its own; else small tables are held in registers if they can be.
template <class Settings, class Run>
MMACT_HD inline void with_layout(const Task& task, const Settings& settings, Run run) {
  const auto in = [&](auto zero) MMACT_LAMBDA {
    using T = decltype(zero);
    if (task.lane_is_channel()) return run(zero, TableType<LaneTable>{}, std::true_type{});
    if constexpr (Settings::kLooksUp && RegisterTable<T>::kCapacity > 0) {
      if (settings.lookups() <= RegisterTable<T>::kCapacity)
        return run(zero, TableType<RegisterTable>{}, std::false_type{});
    }
    return run(zero, TableType<MemoryTable>{}, std::false_type{});
  };
  if (task.storage == Storage::kDouble)
    in(double());
  else
    in(float());
}

template <class Settings>
void forward(const Task& task, const Settings& settings, int64_t begin, int64_t end) {
  settings.with_formula([&](const auto& formula) {
    using Formula = std::decay_t<decltype(formula)>;
    with_layout(task, settings, [&](auto zero, auto table, auto lanes) MMACT_LAMBDA {
      run_forward<decltype(zero), Formula, decltype(table)::template Of, lanes.value,
                  Settings::kSlowSteps>(task, formula, begin, end);
    });
  });
}

template <class Settings>
void backward(const Task& task, const Settings& settings, int64_t begin, int64_t end) {
  settings.with_formula([&](const auto& formula) {
    using Formula = std::decay_t<decltype(formula)>;
    with_layout(task, settings, [&](auto zero, auto table, auto lanes) MMACT_LAMBDA {
      run_backward<decltype(zero), Formula, decltype(table)::template Of, lanes.value,
                   (Settings::kTerms > 0)>(task, formula, settings.entries(), begin, end);
    });
  });
}

// Calls visit(tile) for the tiles of the work items [begin, end), in the task's arithmetic.
template <bool kLanes, class Visit>
MMACT_HD inline void for_each_plain_tile(const Task& task, int64_t begin, int64_t end,
                                         Visit visit) {
  const auto each = [&](const auto& tile, int64_t) MMACT_LAMBDA { visit(tile); };
  if (task.storage == Storage::kDouble)
    for_each_tile<double, kLanes>(task, begin, end, each);
  else
    for_each_tile<float, kLanes>(task, begin, end, each);
}

static void normalise(const Task& task, int64_t begin, int64_t end) {
  for_each_plain_tile<false>(task, begin, end, [&](const auto& tile) MMACT_LAMBDA {
    using Tile = std::decay_t<decltype(tile)>;
    alignas(64) typename Tile::T buffer[kTile];
    const InPlace place = tile.in_place();
    auto* const z = place.at < 0 ? buffer : static_cast<typename Tile::T*>(task.out) + place.at;
    ForwardTile<Tile>::normalise(task, tile, place, z);
    if (place.at < 0) tile.write(z, task.out);
  });
}

static void sum_norm(const Task& task, int64_t begin, int64_t end) {
  const auto visit = [&](const auto& tile) MMACT_LAMBDA {
    using T = typename std::decay_t<decltype(tile)>::T;
    alignas(64) T x[kTile], z[kTile];
    tile.read(task.x, x);
    tile.normalise(x, nullptr, Simd<T>::kWidth, z);
    tile.differentiate_norm(x, z, Simd<T>::kWidth, nullptr);
  };
  if (task.lane_is_channel())
    for_each_plain_tile<true>(task, begin, end, visit);
  else
    for_each_plain_tile<false>(task, begin, end, visit);
}

extern const NormKernels norm_kernels{normalise, sum_norm};

template <class Settings>
Kernels<Settings> kernels() {
  return {forward<Settings>, backward<Settings>};
}

}  // namespace MMACT_ISA
}  // namespace mmact
