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
using OptionalTensor = std::optional<Tensor>;

// Formulas: what of x, grad, numbers of pixels, result and sums over pixels and channels they read
// and leave, and what they do with an element.

template <class T, int kCount, bool kAttention>
struct DyreluFormula {
  static constexpr bool kX = true, kOut = true, kPixels = kAttention;

  int num_functions;

  __device__ auto load(const SampleRows<T>& rows) const {
    if constexpr (kCount > 0) {
      using Local = LocalRows<T, 2 * kCount>;
      return MaxAffine<Scalar<T>, kCount, Local>{Local::load(rows), kCount};
    } else {
      return MaxAffine<Scalar<T>, 0, SampleRows<T>>{rows, num_functions};
    }
  }
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

// The table: the weight of the projection.
template <class T, bool kProject>
struct SqueezeForward {
  static constexpr bool kX = true, kGrad = false, kOut = false;
  static constexpr bool kPixels = false, kPixelSums = kProject;
  static constexpr int kSums = 1;

  __device__ T load(const SampleRows<T>& rows) const { return rows.at(0); }
  __device__ int sums() const { return 1; }
  __device__ T element(T weight, T x, T, T, T& pixel_sum, T (&sums)[1]) const {
    sums[0] += x;
    pixel_sum += x * weight;
    return x;
  }
};

// The table: the gradient of every element of a channel, and the weight of the projection.
template <class T, bool kProject>
struct SqueezeBackward {
  static constexpr bool kX = kProject, kGrad = true, kOut = true;
  static constexpr bool kPixels = kProject, kPixelSums = false;
  static constexpr int kSums = kProject ? 1 : 0;

  __device__ auto load(const SampleRows<T>& rows) const {
    return LocalRows<T, 2>::load(rows);
  }
  __device__ int sums() const { return kSums; }
  template <class Sums>
  __device__ T element(const LocalRows<T, 2>& f, T x, T grad, T pixel, T&, Sums& sums) const {
    if constexpr (!kProject) return grad + f.at(0);
    sums[0] += x * pixel;
    return grad + f.at(0) + pixel * f.at(1);
  }
};

at::TensorOptions arithmetic_of(const Tensor& x) {
  return x.options().dtype(at::toOpMathType(x.scalar_type()));
}

// In the arithmetic type of x and dense.
Tensor as_numbers(const Tensor& x, const Tensor& t) {
  return t.to(at::toOpMathType(x.scalar_type())).contiguous();
}

template <class T>
const T* pointer(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

template <class T>
T* mutable_pointer(const Tensor& t) {
  return t.defined() ? t.mutable_data_ptr<T>() : nullptr;
}

// The tensors of a launch; undefined where the formula has no use for them.
struct Tensors {
  Tensor table, x, grad, out, pixels, sums, pixel_sums;
};

// Calls with_formula(T, use), which must call use(formula), and launches the formula.
template <class WithFormula>
void launch(const Samples& samples, const SamplesTask& task, const Tensor& like, const Tensors& t,
            WithFormula with_formula) {
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, like.scalar_type(), "mmact_dyrelu", [&] {
        using T = at::opmath_type<scalar_t>;
        const SamplesData<scalar_t> data{pointer<T>(t.table),          pointer<scalar_t>(t.x),
                                         pointer<scalar_t>(t.grad),    mutable_pointer<scalar_t>(t.out),
                                         pointer<T>(t.pixels),         mutable_pointer<double>(t.sums),
                                         mutable_pointer<T>(t.pixel_sums)};
        with_formula(T(), [&](const auto& formula) {
          launch_samples<scalar_t>(task, samples.channels_last, formula, data);
        });
      });
}

template <template <class, int, bool> class Formula>
void launch_dyrelu(const Samples& samples, const SamplesTask& task, const Tensors& t, int count) {
  launch(samples, task, t.x, t, [&](auto zero, const auto& use) {
    using T = decltype(zero);
    if (count != 2)
      use(Formula<T, 0, true>{{count}});
    else if (t.pixels.defined())
      use(Formula<T, 2, true>{{count}});
    else
      use(Formula<T, 2, false>{{count}});
  });
}

template <template <class, bool> class Formula>
void launch_squeeze(const Samples& samples, const SamplesTask& task, const Tensor& like,
                    const Tensors& t, bool project) {
  launch(samples, task, like, t, [&](auto zero, const auto& use) {
    using T = decltype(zero);
    if (project)
      use(Formula<T, true>{});
    else
      use(Formula<T, false>{});
  });
}

Tensor make_sums(const Tensor& x, const SamplesTask& task, int64_t entries) {
  return at::empty({task.num_chunks, entries, task.samples, task.channels},
                   x.options().dtype(at::kDouble));
}

Tensor make_pixel_sums(const Tensor& x, const SamplesTask& task) {
  return at::empty({task.num_blocks, task.samples, task.pixels}, arithmetic_of(x));
}

Tensor dyrelu_cuda(const Tensor& x, const Tensor& slopes, const Tensor& intercepts,
                   const OptionalTensor& attention, int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.numel() == 0) return at::empty_like(x);
  const Arrangement arrangement(x, slopes.size(2), channel_dim);
  Tensors t;
  t.table = as_numbers(x, dyrelu_numbers(slopes, intercepts));
  t.x = arrangement.read(x);
  t.out = arrangement.empty();
  if (attention) t.pixels = as_numbers(x, attention->reshape({x.size(0), -1}));
  launch_dyrelu<DyreluForward>(arrangement.samples, make_samples_task(arrangement.samples, false),
                               t, static_cast<int>(slopes.size(1)));
  return arrangement.result(t.out);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dyrelu_bwd_cuda(const Tensor& grad, const Tensor& x,
                                                           const Tensor& slopes,
                                                           const Tensor& intercepts,
                                                           const OptionalTensor& attention,
                                                           int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  check_grad(grad, x);
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor none = at::empty({0}, x.options());
  if (x.numel() == 0)
    return {at::empty_like(x), at::zeros_like(slopes), at::zeros_like(intercepts),
            attention ? at::zeros_like(*attention) : none};
  const Arrangement arrangement(x, slopes.size(2), channel_dim);
  const SamplesTask task = make_samples_task(arrangement.samples, attention.has_value());
  Tensors t;
  t.table = as_numbers(x, dyrelu_numbers(slopes, intercepts));
  t.x = arrangement.read(x);
  t.grad = arrangement.read(grad);
  t.out = arrangement.empty();
  t.sums = make_sums(x, task, 2 * slopes.size(1));
  if (attention) {
    t.pixels = as_numbers(x, attention->reshape({x.size(0), -1}));
    t.pixel_sums = make_pixel_sums(x, task);
  }
  launch_dyrelu<DyreluBackward>(arrangement.samples, task, t, static_cast<int>(slopes.size(1)));
  const auto [g_slopes, g_intercepts] = dyrelu_gradients(t.sums.sum(0), slopes, intercepts);
  return {arrangement.result(t.out), g_slopes, g_intercepts,
          attention
              ? t.pixel_sums.sum(0).reshape(attention->sizes()).to(attention->scalar_type())
              : none};
}

std::tuple<Tensor, Tensor> dyrelu_squeeze_cuda(const Tensor& x, const OptionalTensor& weight,
                                               int64_t channel_dim) {
  check_squeeze(x, weight, channel_dim);
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t channels = x.size(channel_dim);
  if (x.numel() == 0)
    return {at::full({x.size(0), channels}, NAN, arithmetic_of(x)),
            weight ? at::zeros(one_channel(x, channel_dim), arithmetic_of(x))
                   : at::empty({0}, arithmetic_of(x))};
  const Arrangement arrangement(x, channels, channel_dim);
  const Samples& samples = arrangement.samples;
  const SamplesTask task = make_samples_task(samples, weight.has_value());
  Tensors t;
  t.table = weight ? as_numbers(x, weight->expand({1, samples.samples, channels}))
                   : at::zeros({1, samples.samples, channels}, arithmetic_of(x));
  t.x = arrangement.read(x);
  t.sums = make_sums(x, task, 1);
  if (weight) t.pixel_sums = make_pixel_sums(x, task);
  launch_squeeze<SqueezeForward>(samples, task, x, t, weight.has_value());
  const Tensor mean = t.sums.sum(0).select(0, 0).div(static_cast<double>(samples.pixels));
  return {as_numbers(x, mean), weight ? t.pixel_sums.sum(0).reshape(one_channel(x, channel_dim))
                                      : at::empty({0}, arithmetic_of(x))};
}

// Adds the gradient of x to grad_x; returns that of the weight, empty without one.
Tensor dyrelu_squeeze_bwd_cuda(Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                               const OptionalTensor& grad_logits, const OptionalTensor& weight,
                               int64_t channel_dim) {
  check_squeeze_bwd(grad_x, x, grad_mean, grad_logits, weight, channel_dim);
  const c10::cuda::CUDAGuard guard(grad_x.device());
  const Tensor none = at::empty({0}, arithmetic_of(grad_x));
  if (grad_x.numel() == 0) return weight ? at::zeros_like(*weight) : none;
  const Arrangement arrangement(grad_x, grad_x.size(channel_dim), channel_dim);
  const SamplesTask task = make_samples_task(arrangement.samples, false);
  Tensors t;
  t.table = as_numbers(grad_x, squeeze_numbers(grad_mean, weight, arrangement.samples.pixels));
  t.out = t.grad = arrangement.read(grad_x);
  if (weight) {
    t.x = arrangement.read(*x);
    t.pixels = as_numbers(grad_x, grad_logits->reshape({grad_x.size(0), -1}));
    t.sums = make_sums(grad_x, task, 1);
  }
  launch_squeeze<SqueezeBackward>(arrangement.samples, task, grad_x, t, weight.has_value());
  arrangement.write(t.out, grad_x);
  return weight ? t.sums.sum(at::IntArrayRef{0, 1, 2}).to(weight->scalar_type()) : none;
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
