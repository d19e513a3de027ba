// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// PWLU on the CPU engine. Included once per instruction set, after engine.h and inside its
// namespace.

template <class Table, class T>
MMACT_HD inline Pwlu<Simd<T>, Table> load_pwlu(const PwluTable<T>& from, int64_t channel,
                                               bool lanes) {
  using S = Simd<T>;
  const auto number = [=](const T* values) __attribute__((always_inline)) {
    return lanes ? S::load(values + channel) : S::set(values[channel]);
  };
  const auto table = [&](const T* values) __attribute__((always_inline)) {
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

template <class St, class Table, bool kLanes, class Use>
MMACT_HD inline void for_each_pwlu_tile(const Task& task, const PwluTable<typename St::Value>& p,
                                        int64_t begin, int64_t end, Use use) {
  const auto visit = [&](const auto& tile, int64_t chunk) __attribute__((always_inline)) {
    use(load_pwlu<Table>(p, tile.channel, kLanes), tile, chunk);
  };
  if constexpr (kLanes)
    for_each_lane_tile<St>(task, begin, end, visit);
  else
    for_each_channel_tile<St>(task, begin, end, visit);
}

template <class St, class Table, bool kLanes>
void pwlu_forward(const Task& task, const PwluTable<typename St::Value>& p, bool inference,
                  int64_t begin, int64_t end) {
  using V = typename Simd<typename St::Value>::V;
  if (inference) {
    for_each_pwlu_tile<St, Table, kLanes>(
        task, p, begin, end,
        [&](const auto& f, const auto& tile, int64_t) __attribute__((always_inline)) {
          forward_tile<St>(
              task, [&](V x) __attribute__((always_inline)) { return f.inference(x); }, tile);
        });
  } else {
    for_each_pwlu_tile<St, Table, kLanes>(
        task, p, begin, end,
        [&](const auto& f, const auto& tile, int64_t) __attribute__((always_inline)) {
          forward_tile<St>(
              task, [&](V x) __attribute__((always_inline)) { return f.forward(x); }, tile);
        });
  }
}

template <class St, class Table, bool kLanes>
void pwlu_backward(const Task& task, const PwluTable<typename St::Value>& p, bool, int64_t begin,
                   int64_t end) {
  using S = Simd<typename St::Value>;
  const int bins = p.num_intervals + 2;
  for_each_pwlu_tile<St, Table, kLanes>(
      task, p, begin, end,
      [&](const auto& f, const auto& tile, int64_t chunk) __attribute__((always_inline)) {
        double* sums = task.sums + chunk * bins * f.kTerms * task.channel_stride + tile.channel;
        backward_tile<St>(task, f, tile, bins,
                          [&](int64_t entry, typename S::V v) __attribute__((always_inline)) {
                            double* to = sums + entry * task.channel_stride;
                            if constexpr (kLanes)
                              for (int lane = 0; lane < S::kWidth; ++lane) to[lane] += v[lane];
                            else
                              *to += S::sum(v);
                          });
      });
}

// Picks the table that suits the layout and the number of segments.
template <class St, template <class, class, bool> class Run>
void run_pwlu_as(const Task& task, const void* table, bool inference, int64_t begin, int64_t end) {
  using T = typename St::Value;
  const auto& p = *static_cast<const PwluTable<T>*>(table);
  if (task.lane_is_channel())
    Run<St, LaneTable<T>, true>::run(task, p, inference, begin, end);
  else if (p.num_intervals + 2 <= RegisterTable<T>::kCapacity)
    Run<St, RegisterTable<T>, false>::run(task, p, inference, begin, end);
  else
    Run<St, MemoryTable<T>, false>::run(task, p, inference, begin, end);
}

template <class St, class Table, bool kLanes>
struct PwluForward {
  static constexpr auto run = pwlu_forward<St, Table, kLanes>;
};

template <class St, class Table, bool kLanes>
struct PwluBackward {
  static constexpr auto run = pwlu_backward<St, Table, kLanes>;
};

template <template <class, class, bool> class Run>
void run_pwlu(Storage storage, const Task& task, const void* table, bool inference, int64_t begin,
              int64_t end) {
  switch (storage) {
    case Storage::kHalf:
      return run_pwlu_as<Half, Run>(task, table, inference, begin, end);
    case Storage::kBFloat16:
      return run_pwlu_as<BFloat16, Run>(task, table, inference, begin, end);
    case Storage::kFloat:
      return run_pwlu_as<Plain<float>, Run>(task, table, inference, begin, end);
    case Storage::kDouble:
      return run_pwlu_as<Plain<double>, Run>(task, table, inference, begin, end);
  }
}

extern const PwluKernels pwlu_kernels{run_pwlu<PwluForward>, run_pwlu<PwluBackward>};
