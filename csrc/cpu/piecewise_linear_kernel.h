// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Piecewise-linear functions on the CPU engine. Included once per instruction set, after engine.h
// and inside its namespace.

// With one breakpoint, as AReLU and the leaky functions have, the numbers stay in registers.
template <class T, int kCount, bool kLanes>
MMACT_HD inline auto load_piecewise_linear(const RowTable& table, int count, int64_t channel) {
  using S = Simd<T>;
  using Memory = MemoryRows<T, kLanes>;
  const Memory rows{static_cast<const T*>(table.numbers) + channel, table.stride};
  if constexpr (kCount > 0) {
    using Local = LocalRows<typename S::V, 3 * kCount + 2>;
    return PiecewiseLinear<S, kCount, Local>{Local::load(rows), kCount};
  } else {
    return PiecewiseLinear<S, 0, Memory>{rows, count};
  }
}

template <class St, int kCount, bool kLanes>
struct PiecewiseLinearForward {
  static void run(const Task& task, const RowTable& table, int count, int64_t begin, int64_t end) {
    using T = typename St::Value;
    using S = Simd<T>;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
      const auto f = load_piecewise_linear<T, kCount, kLanes>(table, count, tile.channel);
      forward_tile<St>(
          task, [&](typename S::V x, int64_t) MMACT_LAMBDA { return f.forward(x); }, tile);
    });
  }
};

template <class St, int kCount, bool kLanes>
struct PiecewiseLinearBackward {
  static void run(const Task& task, const RowTable& table, int count, int64_t begin, int64_t end) {
    using T = typename St::Value;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t chunk) MMACT_LAMBDA {
      const auto f = load_piecewise_linear<T, kCount, kLanes>(table, count, tile.channel);
      const int bins = count + 1;
      backward_bins<St>(task, f, tile, bins,
                        Flush<T, kLanes>::to(task, chunk, tile.channel, bins * f.kTerms));
    });
  }
};

template <template <class, int, bool> class Run>
void run_piecewise_linear(Storage storage, const Task& task, const RowTable& table, int count,
                          int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    const auto run = task.lane_is_channel()
                         ? (count == 1 ? Run<St, 1, true>::run : Run<St, 0, true>::run)
                         : (count == 1 ? Run<St, 1, false>::run : Run<St, 0, false>::run);
    run(task, table, count, begin, end);
  });
}

extern const PiecewiseLinearKernels piecewise_linear_kernels{
    run_piecewise_linear<PiecewiseLinearForward>, run_piecewise_linear<PiecewiseLinearBackward>};
