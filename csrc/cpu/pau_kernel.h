// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// PAU and RPAU on the CPU engine. Included once per instruction set, after engine.h and inside its
// namespace.

// Without noise, the coefficients of the usual orders (5, 4) stay in registers.
template <class T, bool kUsual, bool kNoise, bool kLanes>
MMACT_HD inline auto load_pau(const RowTable& table, const PauSettings& settings, int64_t channel) {
  using S = Simd<T>;
  using Memory = MemoryRows<T, kLanes>;
  const Memory rows{static_cast<const T*>(table.numbers) + channel, table.stride};
  if constexpr (kUsual) {
    using Local = LocalRows<typename S::V, 5 + 4 + 2>;
    return Pau<S, 5, 4, kNoise, Local>{settings, Local::load(rows)};
  } else {
    return Pau<S, -1, -1, kNoise, Memory>{settings, rows};
  }
}

template <class St, bool kUsual, bool kNoise, bool kLanes>
struct PauForward {
  static void run(const Task& task, const RowTable& table, const PauSettings& settings,
                  int64_t begin, int64_t end) {
    using T = typename St::Value;
    using S = Simd<T>;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
      const auto f = load_pau<T, kUsual, kNoise, kLanes>(table, settings, tile.channel);
      forward_tile<St>(
          task,
          [&](typename S::V x, int64_t i) MMACT_LAMBDA { return f.forward(x, tile.index(i)); },
          tile);
    });
  }
};

template <class St, bool kUsual, bool kNoise, bool kLanes>
struct PauBackward {
  static void run(const Task& task, const RowTable& table, const PauSettings& settings,
                  int64_t begin, int64_t end) {
    using T = typename St::Value;
    using V = typename Simd<T>::V;
    for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t chunk) MMACT_LAMBDA {
      const auto f = load_pau<T, kUsual, kNoise, kLanes>(table, settings, tile.channel);
      constexpr int kSums = decltype(f)::kSums;
      backward_sums<St, kSums>(
          task,
          [&](V x, V grad, int64_t i, V(&sums)[kSums])
              MMACT_LAMBDA { return f.backward(x, grad, tile.index(i), sums); },
          tile, f.sums(), Flush<T, kLanes>::to(task, chunk, tile.channel, f.sums()));
    });
  }
};

template <template <class, bool, bool, bool> class Run, bool kLanes>
void run_pau_in_layout(Storage storage, const Task& task, const RowTable& table,
                       const PauSettings& settings, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    if (settings.noise != 0)
      Run<St, false, true, kLanes>::run(task, table, settings, begin, end);
    else if (settings.m == 5 && settings.n == 4)
      Run<St, true, false, kLanes>::run(task, table, settings, begin, end);
    else
      Run<St, false, false, kLanes>::run(task, table, settings, begin, end);
  });
}

template <template <class, bool, bool, bool> class Run>
void run_pau(Storage storage, const Task& task, const RowTable& table, const PauSettings& settings,
             int64_t begin, int64_t end) {
  if (task.lane_is_channel())
    run_pau_in_layout<Run, true>(storage, task, table, settings, begin, end);
  else
    run_pau_in_layout<Run, false>(storage, task, table, settings, begin, end);
}

extern const PauKernels pau_kernels{run_pau<PauForward>, run_pau<PauBackward>};
