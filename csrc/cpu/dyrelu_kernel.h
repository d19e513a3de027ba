// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Dynamic ReLU on the CPU engine for samples. Included once per instruction set, after samples.h
// and inside its namespace.

// Two functions, as in the paper's experiments, stay in registers.
template <class T, int kCount, class Rows>
MMACT_HD inline auto load_dyrelu(const Rows& rows, int count) {
  using S = Simd<T>;
  if constexpr (kCount > 0) {
    using Local = LocalRows<typename S::V, 2 * kCount>;
    return MaxAffine<S, kCount, Local>{Local::load(rows), kCount};
  } else {
    return MaxAffine<S, 0, Rows>{rows, count};
  }
}

template <class St, int kCount, bool kAttention, bool kLanes>
struct DyreluForward {
  static void run(const SamplesTask& s, const SampleTable& table, int count, int64_t begin,
                  int64_t end) {
    using T = typename St::Value;
    using V = typename Simd<T>::V;
    for_each_samples_tile<St, kLanes, kAttention, false>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const auto f = load_dyrelu<T, kCount>(at.rows(table), count);
          forward_tile<St>(
              at.task,
              [&](V x, int64_t i) MMACT_LAMBDA {
                V which;
                const V y = f.evaluate(x, which);
                if constexpr (kAttention) return y * at.pixel(i);
                return y;
              },
              at.tile());
        });
  }
};

template <class St, int kCount, bool kAttention, bool kLanes>
struct DyreluBackward {
  static void run(const SamplesTask& s, const SampleTable& table, int count, int64_t begin,
                  int64_t end) {
    using T = typename St::Value;
    using V = typename Simd<T>::V;
    for_each_samples_tile<St, kLanes, kAttention, kAttention>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const auto f = load_dyrelu<T, kCount>(at.rows(table), count);
          constexpr int kSums = decltype(f)::kSums;
          backward_sums<St, kSums>(
              at.task,
              [&](V x, V grad, int64_t i, V(&sums)[kSums]) MMACT_LAMBDA {
                V which;
                const V y = f.evaluate(x, which);
                if constexpr (kAttention) {
                  at.add(i, grad, y);
                  grad = grad * at.pixel(i);
                }
                return f.backward(x, grad, which, sums);
              },
              at.tile(), 2 * count, at.flush(2 * count));
        });
  }
};

template <class St, bool kProject, bool kLanes>
struct SqueezeForward {
  static void run(const SamplesTask& s, const SampleTable& weights, const SampleTable&,
                  int64_t begin, int64_t end) {
    using V = typename Simd<typename St::Value>::V;
    for_each_samples_tile<St, kLanes, false, kProject>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          V weight{};
          if constexpr (kProject) weight = at.rows(weights).at(0);
          forward_sums<St, 1>(
              at.task,
              [&](V x, int64_t i, V(&sums)[1]) MMACT_LAMBDA {
                sums[0] += x;
                if constexpr (kProject) at.add(i, x, weight);
              },
              at.tile(), at.flush(1));
        });
  }
};

// Adds to `out`, which is `grad`, too; sums the gradient of the weight.
template <class St, bool kProject, bool kLanes>
struct SqueezeBackward {
  static void run(const SamplesTask& s, const SampleTable& weights, const SampleTable& means,
                  int64_t begin, int64_t end) {
    using S = Simd<typename St::Value>;
    using V = typename S::V;
    const V share = S::set(1 / static_cast<typename St::Value>(SamplesItem::pixels(s)));
    for_each_samples_tile<St, kLanes, kProject, false>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const V mean = at.rows(means).at(0) * share;
          V weight{};
          if constexpr (kProject) weight = at.rows(weights).at(0);
          backward_sums<St, 1>(
              at.task,
              [&](V x, V grad, int64_t i, V(&sums)[1]) MMACT_LAMBDA {
                if constexpr (!kProject) return grad + mean;
                const V pixel = at.pixel(i);
                sums[0] = S::fma(x, pixel, sums[0]);
                return S::fma(pixel, weight, grad + mean);
              },
              at.tile(), kProject ? 1 : 0, at.flush(1));
        });
  }
};

template <template <class, int, bool, bool> class Run, bool kLanes>
void run_dyrelu_in_layout(Storage storage, const SamplesTask& s, const SampleTable& table,
                          int count, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    if (count != 2)
      Run<St, 0, true, kLanes>::run(s, table, count, begin, end);
    else if (s.pixels != nullptr)
      Run<St, 2, true, kLanes>::run(s, table, 2, begin, end);
    else
      Run<St, 2, false, kLanes>::run(s, table, 2, begin, end);
  });
}

template <template <class, int, bool, bool> class Run>
void run_dyrelu(Storage storage, const SamplesTask& s, const SampleTable& table, int count,
                int64_t begin, int64_t end) {
  if (s.task.lane_is_channel())
    run_dyrelu_in_layout<Run, true>(storage, s, table, count, begin, end);
  else
    run_dyrelu_in_layout<Run, false>(storage, s, table, count, begin, end);
}

template <template <class, bool, bool> class Run>
void run_squeeze(Storage storage, const SamplesTask& s, const SampleTable& weights,
                 const SampleTable& means, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto st) MMACT_LAMBDA {
    using St = decltype(st);
    const bool project = weights.numbers != nullptr;
    const auto run = s.task.lane_is_channel()
                         ? (project ? Run<St, true, true>::run : Run<St, false, true>::run)
                         : (project ? Run<St, true, false>::run : Run<St, false, false>::run);
    run(s, weights, means, begin, end);
  });
}

extern const DyreluKernels dyrelu_kernels{run_dyrelu<DyreluForward>, run_dyrelu<DyreluBackward>,
                                          run_squeeze<SqueezeForward>,
                                          run_squeeze<SqueezeBackward>};
