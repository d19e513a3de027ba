// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The kernels of Dynamic ReLU.
#include "../formulas/max_affine.h"
#include "dyrelu_host.h"
#include "host.h"
#include "samples.cuh"
#include "scalar.h"

namespace mmact {
namespace cuda {
namespace {

// Formulas: what of x, grad, numbers of pixels, result and sums over pixels and channels they read
// and leave, and what they do with an element.

template <class T, int kCount, bool kAttention>
struct DyreluFormula {
  static constexpr bool kX = true, kOut = true, kPixels = kAttention;

  SampleTable<T> coefficients;
  int num_functions;

  __device__ auto load(int64_t sample, int64_t channel) const {
    const SampleRows<T> rows(coefficients, sample, channel);
    if constexpr (kCount > 0) {
      using Local = LocalRows<T, 2 * kCount>;
      return MaxAffine<Scalar<T>, kCount, Local>{Local::load(rows), kCount};
    } else {
      return MaxAffine<Scalar<T>, 0, SampleRows<T>>{rows, num_functions};
    }
  }
  __device__ T total(T sum) const { return sum; }
};

template <class T, int kCount, bool kAttention>
struct DyreluForward : DyreluFormula<T, kCount, kAttention> {
  static constexpr bool kGrad = false, kPixelSums = false;
  static constexpr int kSums = 0;

  __device__ int sums() const { return 0; }
  template <class F, class Sums>
  __device__ T element(const F& f, T x, T, T attention, T&, Sums&) const {
    T which;
    return f.evaluate(x, which) * attention;
  }
};

template <class T, int kCount, bool kAttention>
struct DyreluBackward : DyreluFormula<T, kCount, kAttention> {
  static constexpr bool kGrad = true, kPixelSums = kAttention;
  static constexpr int kSums = 2 * (kCount > 0 ? kCount : kMaxFunctions);

  __device__ int sums() const { return 2 * this->num_functions; }
  template <class F>
  __device__ T element(const F& f, T x, T grad, T attention, T& pixel_sum, T (&sums)[kSums]) const {
    T which;
    pixel_sum += grad * f.evaluate(x, which);
    return f.backward(x, grad * attention, which, sums);
  }
};

template <class T>
struct SqueezeFormula {
  SampleTable<T> weights, means;
  T share;  // of a pixel in the average
};

template <class T, bool kProject>
struct SqueezeForward : SqueezeFormula<T> {
  static constexpr bool kX = true, kGrad = false, kOut = false;
  static constexpr bool kPixels = false, kPixelSums = kProject;
  static constexpr int kSums = 1;

  __device__ T load(int64_t sample, int64_t channel) const {
    return kProject ? SampleRows<T>(this->weights, sample, channel).at(0) : T(0);
  }
  __device__ int sums() const { return 1; }
  __device__ T element(T weight, T x, T, T, T& pixel_sum, T (&sums)[1]) const {
    sums[0] += x;
    pixel_sum += x * weight;
    return x;
  }
  __device__ T total(T sum) const { return sum * this->share; }
};

template <class T, bool kProject>
struct SqueezeBackward : SqueezeFormula<T> {
  static constexpr bool kX = kProject, kGrad = true, kOut = true;
  static constexpr bool kPixels = kProject, kPixelSums = false;
  static constexpr int kSums = kProject ? 1 : 0;

  struct Loaded {
    T mean, weight;
  };

  __device__ Loaded load(int64_t sample, int64_t channel) const {
    return {SampleRows<T>(this->means, sample, channel).at(0) * this->share,
            kProject ? SampleRows<T>(this->weights, sample, channel).at(0) : T(0)};
  }
  __device__ int sums() const { return kSums; }
  template <class Sums>
  __device__ T element(const Loaded& f, T x, T grad, T pixel, T&, Sums& sums) const {
    if constexpr (!kProject) return grad + f.mean;
    sums[0] += x * pixel;
    return grad + f.mean + pixel * f.weight;
  }
  __device__ T total(T sum) const { return sum; }
};

// `numbers`: (samples or 1, rows, channels), in the arithmetic type.
template <class T>
SampleTable<T> table_of(const Tensor& numbers) {
  if (!numbers.defined()) return {};
  return {numbers.const_data_ptr<T>(), numbers.size(0) == 1 ? 0 : numbers.stride(0),
          numbers.stride(1)};
}

}  // namespace
}  // namespace cuda

using cuda::SamplesTask;
using cuda::table_of;

CudaSamplesRun::CudaSamplesRun(const Tensor& x, int64_t groups, int64_t channel_dim,
                               bool pixel_sums)
    : SamplesRun(x, groups, channel_dim), guard_(x.device()), pixel_sums_wanted_(pixel_sums) {
  blocks_ = task().num_blocks;
}

SamplesTask CudaSamplesRun::task() const {
  return cuda::make_samples_task(samples_, pixel_sums_wanted_);
}

void CudaSamplesRun::sum(int64_t entries) {
  sums_ = empty({task().num_chunks, samples_.samples, entries, samples_.channels});
}

// with_formula(T(), use) must call use(formula), which launches it.
template <class WithFormula>
void CudaSamplesRun::run(WithFormula with_formula) const {
  const auto read = [](const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
  const auto write = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; };
  cuda::with_storage(x_, [&](auto raw) {
    using Raw = decltype(raw);
    using T = at::opmath_type<Raw>;
    const cuda::SamplesData<Raw> data{
        static_cast<const Raw*>(read(x_in_)), static_cast<const Raw*>(read(grad_)),
        static_cast<Raw*>(write(out_)),       static_cast<const T*>(read(pixels_)),
        static_cast<T*>(write(sums_)),        static_cast<T*>(write(pixel_sums_))};
    with_formula(T(), [&](const auto& formula) {
      cuda::launch_samples<Raw>(task(), samples_.channels_last, formula, data);
    });
  });
}

template <template <class, int, bool> class Formula>
void CudaSamplesRun::run_dyrelu(const Tensor& coefficients, int count) const {
  const Tensor table = numbers(coefficients);
  run([&](auto zero, const auto& use) {
    using T = decltype(zero);
    if (count != 2)
      use(Formula<T, 0, true>{{table_of<T>(table), count}});
    else if (pixels_.defined())
      use(Formula<T, 2, true>{{table_of<T>(table), count}});
    else
      use(Formula<T, 2, false>{{table_of<T>(table), count}});
  });
}

template <template <class, bool> class Formula>
void CudaSamplesRun::run_squeeze(const OptionalTensor& weight, const OptionalTensor& mean) const {
  const Tensor weights = weight ? numbers(weight->view({1, 1, -1})) : Tensor();
  const Tensor means = mean ? numbers(mean->unsqueeze(1)) : Tensor();
  run([&](auto zero, const auto& use) {
    using T = decltype(zero);
    const cuda::SqueezeFormula<T> formula{table_of<T>(weights), table_of<T>(means),
                                          T(1) / static_cast<T>(samples_.pixels)};
    if (weight)
      use(Formula<T, true>{formula});
    else
      use(Formula<T, false>{formula});
  });
}

void CudaSamplesRun::forward(const Tensor& coefficients, int count) {
  run_dyrelu<cuda::DyreluForward>(coefficients, count);
}

void CudaSamplesRun::backward(const Tensor& coefficients, int count) {
  run_dyrelu<cuda::DyreluBackward>(coefficients, count);
}

Tensor CudaSamplesRun::squeeze(const OptionalTensor& weight) {
  run_squeeze<cuda::SqueezeForward>(weight, {});
  return sums().select(1, 0);  // divided by the kernel
}

void CudaSamplesRun::squeeze_backward(const OptionalTensor& weight, const Tensor& mean) {
  run_squeeze<cuda::SqueezeBackward>(weight, mean);
}

}  // namespace mmact
