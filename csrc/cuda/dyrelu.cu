// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::dyrelu, mmact::dyrelu_squeeze and their backwards on CUDA. Schemas, shape functions and
// autograd are in mmact/ops/dyrelu.py and mmact/ops/dyrelu_squeeze.py.
#include <torch/library.h>

#include "../formulas/max_affine.h"
#include "samples.cuh"
#include "scalar.h"

namespace mmact {
namespace cuda {
namespace {

using at::Tensor;

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

at::ScalarType arithmetic_type(const Tensor& x) { return at::toOpMathType(x.scalar_type()); }

Tensor empty_arithmetic(const Tensor& x, at::IntArrayRef sizes) {
  return at::empty(sizes, x.options().dtype(arithmetic_type(x)));
}

// A launch with the tensors that it reads and writes.
class Run {
 public:
  Run(const Tensor& x, int64_t groups, int64_t channel_dim, bool pixel_sums)
      : x_(x),
        arrangement_(x, groups, channel_dim),
        samples_(arrangement_.samples),
        task_(make_samples_task(samples_, pixel_sums)) {}

  const Samples& samples() const { return samples_; }

  void read_x(const Tensor& t) { x_in_ = arrangement_.read(t); }
  void read_grad(const Tensor& t) { grad_ = arrangement_.read(t); }
  void write_new() { out_ = arrangement_.empty(); }
  Tensor result() const { return arrangement_.result(out_); }
  // `t` is gradient and result in one.
  void add_to(const Tensor& t) { out_ = grad_ = arrangement_.read(t); }
  void write_to(Tensor& t) const { arrangement_.write(out_, t); }

  // x's shape with one channel.
  void read_pixels(const Tensor& t) { pixels_ = numbers(t.reshape({samples_.samples, -1})); }
  // In the arithmetic type and dense; to be kept by the caller.
  Tensor numbers(const Tensor& t) const { return t.to(arithmetic_type(x_)).contiguous(); }

  void sum(int64_t entries) {
    sums_ = empty_arithmetic(x_, {task_.num_chunks, task_.samples, entries, task_.channels});
  }
  void sum_pixels() {
    pixel_sums_ = empty_arithmetic(x_, {task_.num_blocks, task_.samples, task_.pixels});
  }
  // (samples, entries, channels)
  Tensor sums() const { return add_up(sums_); }
  // (samples, pixels)
  Tensor pixel_sums() const { return add_up(pixel_sums_); }

  // with_formula(T, use) must call use(formula), which launches it.
  template <class WithFormula>
  void operator()(WithFormula with_formula) const {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, x_.scalar_type(), "mmact_dyrelu", [&] {
          using T = at::opmath_type<scalar_t>;
          const SamplesData<scalar_t> data{read<scalar_t>(x_in_), read<scalar_t>(grad_),
                                           write<scalar_t>(out_), read<T>(pixels_),
                                           write<T>(sums_),       write<T>(pixel_sums_)};
          with_formula(T(), [&](const auto& formula) {
            launch_samples<scalar_t>(task_, samples_.channels_last, formula, data);
          });
        });
  }

 private:
  static Tensor add_up(const Tensor& t) { return t.size(0) == 1 ? t.select(0, 0) : t.sum(0); }
  template <class T>
  static const T* read(const Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  }
  template <class T>
  static T* write(const Tensor& t) {
    return t.defined() ? t.mutable_data_ptr<T>() : nullptr;
  }

  const Tensor& x_;
  Arrangement arrangement_;
  Samples samples_;
  SamplesTask task_;
  Tensor x_in_, grad_, out_, pixels_, sums_, pixel_sums_;
};

// `numbers`: (samples or 1, rows, channels), from Run::numbers().
template <class T>
SampleTable<T> table_of(const Tensor& numbers) {
  if (!numbers.defined()) return {};
  return {numbers.const_data_ptr<T>(), numbers.size(0) == 1 ? 0 : numbers.stride(0),
          numbers.stride(1)};
}

template <template <class, int, bool> class Formula>
void run_dyrelu(const Run& run, const Tensor& coefficients, bool attention, int count) {
  const Tensor numbers = run.numbers(coefficients);
  run([&](auto zero, const auto& use) {
    using T = decltype(zero);
    const auto table = table_of<T>(numbers);
    if (count != 2)
      use(Formula<T, 0, true>{{table, count}});
    else if (attention)
      use(Formula<T, 2, true>{{table, count}});
    else
      use(Formula<T, 2, false>{{table, count}});
  });
}

template <template <class, bool> class Formula>
void run_squeeze(const Run& run, const OptionalTensor& weight, const OptionalTensor& grad_mean) {
  const Tensor weights = weight ? run.numbers(weight->view({1, 1, weight->size(0)})) : Tensor();
  const Tensor means = grad_mean ? run.numbers(grad_mean->unsqueeze(1)) : Tensor();
  run([&](auto zero, const auto& use) {
    using T = decltype(zero);
    const SqueezeFormula<T> formula{table_of<T>(weights), table_of<T>(means),
                                    T(1) / static_cast<T>(run.samples().pixels)};
    if (weight)
      use(Formula<T, true>{formula});
    else
      use(Formula<T, false>{formula});
  });
}

Tensor dyrelu_cuda(const Tensor& x, const Tensor& coefficients, const OptionalTensor& attention,
                   int64_t channel_dim) {
  const int count = check_dyrelu(x, coefficients, attention, channel_dim);
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.numel() == 0) return at::empty_like(x);
  Run run(x, coefficients.size(2), channel_dim, false);
  run.read_x(x);
  run.write_new();
  if (attention) run.read_pixels(*attention);
  run_dyrelu<DyreluForward>(run, coefficients, attention.has_value(), count);
  return run.result();
}

std::tuple<Tensor, Tensor, Tensor> dyrelu_bwd_cuda(const Tensor& grad, const Tensor& x,
                                                   const Tensor& coefficients,
                                                   const OptionalTensor& attention,
                                                   int64_t channel_dim) {
  const int count = check_dyrelu(x, coefficients, attention, channel_dim);
  check_grad(grad, x);
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.numel() == 0)
    return {at::empty_like(x), at::zeros(coefficients.sizes(), coefficients.options()),
            attention ? at::zeros(attention->sizes(), attention->options())
                      : at::empty({0}, x.options())};
  Run run(x, coefficients.size(2), channel_dim, attention.has_value());
  run.read_x(x);
  run.read_grad(grad);
  run.write_new();
  run.sum(2 * count);
  if (attention) {
    run.read_pixels(*attention);
    run.sum_pixels();
  }
  run_dyrelu<DyreluBackward>(run, coefficients, attention.has_value(), count);
  return {run.result(), run.sums().to(coefficients.scalar_type()),
          attention ? run.pixel_sums().reshape(attention->sizes()).to(attention->scalar_type())
                    : at::empty({0}, x.options())};
}

std::tuple<Tensor, Tensor> dyrelu_squeeze_cuda(const Tensor& x, const OptionalTensor& weight,
                                               int64_t channel_dim) {
  check_squeeze(x, weight, channel_dim);
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t channels = x.size(channel_dim);
  const Tensor none = empty_arithmetic(x, {0});
  if (x.numel() == 0)
    return {empty_arithmetic(x, {x.size(0), channels}).fill_(NAN),
            weight ? empty_arithmetic(x, one_channel(x, channel_dim)).zero_() : none};
  Run run(x, channels, channel_dim, weight.has_value());
  run.read_x(x);
  run.sum(1);
  if (weight) run.sum_pixels();
  run_squeeze<SqueezeForward>(run, weight, {});
  return {run.sums().select(1, 0),
          weight ? run.pixel_sums().reshape(one_channel(x, channel_dim)) : none};
}

// Adds the gradient of x to grad_x; returns that of the weight, empty without one.
Tensor dyrelu_squeeze_bwd_cuda(Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                               const OptionalTensor& grad_logits, const OptionalTensor& weight,
                               int64_t channel_dim) {
  check_squeeze_bwd(grad_x, x, grad_mean, grad_logits, weight, channel_dim);
  const c10::cuda::CUDAGuard guard(grad_x.device());
  const Tensor none = empty_arithmetic(grad_x, {0});
  if (grad_x.numel() == 0) return weight ? at::zeros_like(*weight) : none;
  Run run(grad_x, grad_x.size(channel_dim), channel_dim, false);
  if (weight) {
    run.read_x(*x);
    run.read_pixels(*grad_logits);
    run.sum(1);
  }
  run.add_to(grad_x);
  run_squeeze<SqueezeBackward>(run, weight, grad_mean);
  run.write_to(grad_x);
  return weight ? run.sums().sum(at::IntArrayRef{0, 1}).to(weight->scalar_type()) : none;
}

}  // namespace
}  // namespace cuda
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CUDA, m) {
  m.impl("dyrelu", mmact::cuda::dyrelu_cuda);
  m.impl("dyrelu_bwd", mmact::cuda::dyrelu_bwd_cuda);
  m.impl("dyrelu_squeeze", mmact::cuda::dyrelu_squeeze_cuda);
  m.impl("dyrelu_squeeze_bwd_", mmact::cuda::dyrelu_squeeze_bwd_cuda);
}
