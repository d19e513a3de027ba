// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Dynamic ReLU on the CPU engine for samples.
#pragma once

#include "../formulas/max_affine.h"
#include "samples.h"

namespace mmact {
namespace MMACT_ISA {

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

template <class T, int kCount, bool kAttention, bool kLanes>
struct DyreluForward {
  static void run(const SamplesTask& s, const SampleTable& table, int count, int64_t begin,
                  int64_t end) {
    using V = typename Simd<T>::V;
    for_each_samples_tile<T, kLanes, kAttention, false>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const auto f = load_dyrelu<T, kCount>(at.rows(table), count);
          forward_tile(
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

template <class T, int kCount, bool kAttention, bool kLanes>
struct DyreluBackward {
  static void run(const SamplesTask& s, const SampleTable& table, int count, int64_t begin,
                  int64_t end) {
    using V = typename Simd<T>::V;
    for_each_samples_tile<T, kLanes, kAttention, kAttention>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const auto f = load_dyrelu<T, kCount>(at.rows(table), count);
          constexpr int kSums = decltype(f)::kSums;
          backward_sums<kSums>(
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

template <class T, bool kProject, bool kLanes>
struct SqueezeForward {
  static void run(const SamplesTask& s, const SampleTable& weights, const SampleTable&,
                  int64_t begin, int64_t end) {
    using V = typename Simd<T>::V;
    for_each_samples_tile<T, kLanes, false, kProject>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          V weight{};
          if constexpr (kProject) weight = at.rows(weights).at(0);
          forward_sums<1>(
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
template <class T, bool kProject, bool kLanes>
struct SqueezeBackward {
  static void run(const SamplesTask& s, const SampleTable& weights, const SampleTable& means,
                  int64_t begin, int64_t end) {
    using S = Simd<T>;
    using V = typename S::V;
    const V share = S::set(1 / static_cast<T>(SamplesItem::pixels(s)));
    for_each_samples_tile<T, kLanes, kProject, false>(
        s, begin, end, [&](const auto& at) MMACT_LAMBDA {
          const V mean = at.rows(means).at(0) * share;
          V weight{};
          if constexpr (kProject) weight = at.rows(weights).at(0);
          backward_sums<1>(
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

// Calls run(T(), lanes) in the arithmetic and layout of the task.
template <class Run>
MMACT_HD inline void with_samples_layout(const Task& task, Run run) {
  const auto in = [&](auto zero) MMACT_LAMBDA {
    if (task.lane_is_channel())
      run(zero, std::true_type{});
    else
      run(zero, std::false_type{});
  };
  if (task.storage == Storage::kDouble)
    in(double());
  else
    in(float());
}

template <template <class, int, bool, bool> class Kernel>
void run_dyrelu(const SamplesTask& s, const SampleTable& table, int count, int64_t begin,
                int64_t end) {
  with_samples_layout(s.task, [&](auto zero, auto lanes) MMACT_LAMBDA {
    using T = decltype(zero);
    if (count != 2)
      Kernel<T, 0, true, lanes.value>::run(s, table, count, begin, end);
    else if (s.pixels != nullptr)
      Kernel<T, 2, true, lanes.value>::run(s, table, 2, begin, end);
    else
      Kernel<T, 2, false, lanes.value>::run(s, table, 2, begin, end);
  });
}

template <template <class, bool, bool> class Kernel>
void run_squeeze(const SamplesTask& s, const SampleTable& weights, const SampleTable& means,
                 int64_t begin, int64_t end) {
  with_samples_layout(s.task, [&](auto zero, auto lanes) MMACT_LAMBDA {
    using T = decltype(zero);
    if (weights.numbers != nullptr)
      Kernel<T, true, lanes.value>::run(s, weights, means, begin, end);
    else
      Kernel<T, false, lanes.value>::run(s, weights, means, begin, end);
  });
}

extern const DyreluKernels dyrelu_kernels{run_dyrelu<DyreluForward>, run_dyrelu<DyreluBackward>,
                                          run_squeeze<SqueezeForward>,
                                          run_squeeze<SqueezeBackward>};

}  // namespace MMACT_ISA
}  // namespace mmact
