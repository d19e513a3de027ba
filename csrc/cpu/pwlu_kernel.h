// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// PWLU on the CPU engine. Included once per instruction set, after engine.h and inside its
// namespace.

template <class Table, class T>
MMACT_HD inline Pwlu<Simd<T>, Table> load_pwlu(const PwluTable<T>& from, int64_t channel,
                                               bool lanes) {
  using S = Simd<T>;
  const auto number = [=](const T* values) MMACT_LAMBDA {
    return lanes ? S::load(values + channel) : S::set(values[channel]);
  };
  const auto table = [&](const T* values) MMACT_LAMBDA {
    return Table::load(values + channel * from.channel_stride, from.num_intervals + 2,
                       from.segment_stride);
  };
  return {number(from.lower),
          number(from.upper),
          number(from.length),
          number(from.inv_length),
          S::set(static_cast<T>(from.num_intervals - 1)),
          table(from.slope),
          table(from.value)};
}

template <class St, class Table, bool kLanes>
void pwlu_forward(const Task& task, const PwluTable<typename St::Value>& p, bool inference,
                  int64_t begin, int64_t end) {
  using S = Simd<typename St::Value>;
  using V = typename S::V;
  for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t) MMACT_LAMBDA {
    const auto f = load_pwlu<Table>(p, tile.channel, kLanes);
    if (inference)
      forward_tile<St>(task, [&](V x, int64_t) MMACT_LAMBDA { return f.inference(x); }, tile);
    else
      forward_tile<St>(task, [&](V x, int64_t) MMACT_LAMBDA { return f.forward(x); }, tile);
  });
}

template <class St, class Table, bool kLanes>
void pwlu_backward(const Task& task, const PwluTable<typename St::Value>& p, bool, int64_t begin,
                   int64_t end) {
  using T = typename St::Value;
  for_each_tile<St, kLanes>(task, begin, end, [&](const auto& tile, int64_t chunk) MMACT_LAMBDA {
    const auto f = load_pwlu<Table>(p, tile.channel, kLanes);
    const int bins = p.num_intervals + 2;
    backward_bins<St>(task, f, tile, bins,
                      Flush<T, kLanes>::to(task, chunk, tile.channel, bins * f.kTerms));
  });
}

// Picks the table that suits the layout and the number of segments.
template <template <class, class, bool> class Run>
void run_pwlu(Storage storage, const Task& task, const void* table, bool inference, int64_t begin,
              int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    using T = typename St::Value;
    const auto& p = *static_cast<const PwluTable<T>*>(table);
    if (task.lane_is_channel())
      Run<St, LaneTable<T>, true>::run(task, p, inference, begin, end);
    else if (p.num_intervals + 2 <= RegisterTable<T>::kCapacity)
      Run<St, RegisterTable<T>, false>::run(task, p, inference, begin, end);
    else
      Run<St, MemoryTable<T>, false>::run(task, p, inference, begin, end);
  });
}

template <class St, class Table, bool kLanes>
struct PwluForward {
  static constexpr auto run = pwlu_forward<St, Table, kLanes>;
};

template <class St, class Table, bool kLanes>
struct PwluBackward {
  static constexpr auto run = pwlu_backward<St, Table, kLanes>;
};

extern const PwluKernels pwlu_kernels{run_pwlu<PwluForward>, run_pwlu<PwluBackward>};
