// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The CPU engine: runs a formula over a tensor in any layout and storage type, and sums what its
// backward adds per channel and segment.
//
// The kernels at the end walk the tiles of the task's layout (tiles.h), load the channel's
// function, and call forward_tile or backward_tile. Arithmetic is in T, float or double.
#pragma once

#include "columns.h"

namespace mmact {
namespace MMACT_ISA {

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

  sum_by_bin<T, kTerms>(bins, terms, tile.size(), num_bins, flush);
  at.finish(task, tile, terms[0]);
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

// The same in tiles that are turned round (columns.h).
template <class T, class Formula, template <class> class Table>
void run_forward_by_column(const Task& task, const Formula& formula, int64_t begin, int64_t end) {
  using S = Simd<T>;
  constexpr int kColumn = kTile / S::kWidth;
  for_each_tile<T, true>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
    alignas(64) T buffer[kTile], columns[kTile];
    const ForwardTile<std::decay_t<decltype(tile)>> at(task, tile, buffer);
    const int64_t rows = tile.end - tile.begin;
    to_columns<S, kColumn>(at.x, at.step, rows, columns);
    for (int64_t lane = 0; lane < tile.lanes(); ++lane) {
      T* const column = columns + lane * kColumn;
      const auto f =
          formula.template load<S>(column_of<T, false, Table>(task, tile.channel + lane));
      for (int64_t i = 0; i < rows; i += S::kWidth)
        S::store(column + i, f.forward(S::load(column + i), 0));
    }
    from_columns<S, kColumn>(columns, at.out_step, rows, at.out);
    if (at.buffered) tile.write(buffer, task.out);
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

template <int kEntries>
struct InRegisters {
  template <class T>
  using Table = RegisterTable<T, kEntries>;
};

// The size of the register tables that a formula's numbers may fit into, or 0.
template <class Settings, class T>
constexpr int table_entries() {
  constexpr int kLeast = Settings::kLeastLookups, kEntries = register_entries<T>(kLeast);
  return 0 < kLeast && kLeast <= kEntries ? kEntries : 0;
}

// Calls run(T(), table_of, lanes) in the arithmetic and layout of the task. Where a lane is a
// channel it looks up a table of its own; else small tables are held in registers if they can be.
template <class Settings, class Run>
MMACT_HD inline void with_layout(const Task& task, const Settings& settings, Run run) {
  const auto in = [&](auto zero) MMACT_LAMBDA {
    using T = decltype(zero);
    if (task.lane_is_channel()) return run(zero, TableType<LaneTable>{}, std::true_type{});
    constexpr int kEntries = table_entries<Settings, T>();
    if constexpr (kEntries > 0) {
      if (settings.lookups() <= kEntries)
        return run(zero, TableType<InRegisters<kEntries>::template Table>{}, std::false_type{});
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
      using T = decltype(zero);
      constexpr int kEntries = table_entries<Settings, T>();
      if constexpr (lanes.value && kEntries > 0 && std::is_same_v<T, float>) {
        if (settings.lookups() <= kEntries && task.outer >= Simd<T>::kWidth)
          return run_forward_by_column<T, Formula, InRegisters<kEntries>::template Table>(
              task, formula, begin, end);
      }
      run_forward<T, Formula, decltype(table)::template Of, lanes.value, Settings::kSlowSteps>(
          task, formula, begin, end);
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
