// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// CPAB transformations on the CPU engine. Included once per instruction set, after engine.h and
// cpab_math.h and inside its namespace.

// The function of a channel. The rows of its table are the breakpoints, and five constants of each
// segment.
template <class F, class Table, class T>
MMACT_HD inline F load_cpab(const CpabNumbers& from, const CpabSettings& settings,
                            int64_t channel) {
  const T* const numbers = static_cast<const T*>(from.numbers) + channel * from.channel_stride;
  const int filled = settings.filled(), segments = settings.segments();
  const auto table = [&](int64_t first, int64_t count) MMACT_LAMBDA {
    return Table::load(numbers + first * from.row_stride, count, from.row_stride);
  };
  const auto column = [&](int number)
                          MMACT_LAMBDA { return table(filled + number * segments, segments); };
  return {settings,    {table(0, filled)}, {column(0)}, {column(1)},
          {column(2)}, {column(3)},        {column(4)}};
}

template <class M, class S>
struct TwiceMath {
  using V = typename Twice<S>::V;
  MMACT_HD static V log1p_ratio(const V& v) {
    return {M::log1p_ratio(v.first), M::log1p_ratio(v.second)};
  }
  MMACT_HD static V expm1_ratio(const V& v) {
    return {M::expm1_ratio(v.first), M::expm1_ratio(v.second)};
  }
  MMACT_HD static V normal_cdf(const V& v) {
    return {M::normal_cdf(v.first), M::normal_cdf(v.second)};
  }
};

template <class St, class Table, int kFirstStep, bool kLanes>
struct CpabForward {
  static void run(const Task& task, const CpabNumbers& numbers, const CpabSettings& settings,
                  int64_t begin, int64_t end) {
    using T = typename St::Value;
    using S = Twice<Simd<T>>;
    using F = Cpab<S, TwiceMath<CpabMath<T>, Simd<T>>, TwiceTable<Table>, kFirstStep>;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
      const F f = load_cpab<F, Table, T>(numbers, settings, tile.channel);
      forward_tile_twice<St>(
          task, [&](const typename S::V& x) MMACT_LAMBDA { return f.forward(x); }, tile);
    });
  }
};

template <class St, class Table, int kFirstStep, bool kLanes>
struct CpabBackward {
  static void run(const Task& task, const CpabNumbers& numbers, const CpabSettings& settings,
                  int64_t begin, int64_t end) {
    using T = typename St::Value;
    using F = Cpab<Simd<T>, CpabMath<T>, Table, kFirstStep>;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t chunk) MMACT_LAMBDA {
      const F f = load_cpab<F, Table, T>(numbers, settings, tile.channel);
      const int bins = settings.segments();
      backward_bins<St>(task, f, tile, bins,
                        Flush<T, kLanes>::to(task, chunk, tile.channel, bins * F::kTerms));
    });
  }
};

template <template <class, class, int, bool> class Run>
void run_cpab(Storage storage, const Task& task, const CpabNumbers& numbers,
              const CpabSettings& settings, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    using T = typename St::Value;
    constexpr int kFirstStep = CpabSettings::kLeastFirstStep;
    if (task.lane_is_channel())
      return Run<St, LaneTable<T>, 0, true>::run(task, numbers, settings, begin, end);
    if constexpr (2 * kFirstStep <= RegisterTable<T>::kCapacity) {
      if (settings.first_step == kFirstStep)
        return Run<St, RegisterTable<T>, kFirstStep, false>::run(task, numbers, settings, begin,
                                                                 end);
    }
    Run<St, MemoryTable<T>, 0, false>::run(task, numbers, settings, begin, end);
  });
}

extern const CpabKernels cpab_kernels{run_cpab<CpabForward>, run_cpab<CpabBackward>};
