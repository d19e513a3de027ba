// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::dyrelu, mmact::dyrelu_squeeze and their backwards. Schemas, shape functions and autograd
// are in mmact/ops/dyrelu.py and mmact/ops/dyrelu_squeeze.py.
#include "../formulas/max_affine.h"
#include "checks.h"
#include "devices.h"

namespace mmact {
namespace {

void check_squeeze(const Tensor& x, const OptionalTensor& weight, int64_t channel_dim) {
  constexpr const char* kOp = "dyrelu_squeeze";
  TORCH_CHECK(x.dim() >= 2 && 0 < channel_dim && channel_dim < x.dim(), kOp,
              ": x must have samples at dimension 0 and channels at channel_dim, got shape ",
              x.sizes(), " and channel_dim ", channel_dim);
  TORCH_CHECK(is_supported(x.scalar_type()), kOp,
              ": x must be floating-point of 16, 32 or 64 bits, got ", x.scalar_type());
  TORCH_CHECK(!weight || (weight->dim() == 1 && weight->size(0) == x.size(channel_dim) &&
                          weight->device() == x.device() && is_supported(weight->scalar_type())),
              kOp, ": weight must be floating-point of shape (", x.size(channel_dim), ") on ",
              x.device());
}

void check_squeeze_bwd(const Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                       const OptionalTensor& grad_logits, const OptionalTensor& weight,
                       int64_t channel_dim) {
  check_squeeze(grad_x, weight, channel_dim);
  if (x) check_grad(grad_x, *x);
  const int64_t channels = grad_x.size(channel_dim);
  TORCH_CHECK(!weight || (x && grad_logits && grad_logits->numel() * channels == grad_x.numel()),
              "dyrelu_squeeze: a weight needs x and grad_logits");
  TORCH_CHECK(
      grad_mean.dim() == 2 && grad_mean.size(0) == grad_x.size(0) && grad_mean.size(1) == channels,
      "dyrelu_squeeze: grad_mean must have shape (", grad_x.size(0), ", ", channels, "), got ",
      grad_mean.sizes());
}

// Returns K.
int check_dyrelu(const Tensor& x, const Tensor& coefficients, const OptionalTensor& attention,
                 int64_t channel_dim) {
  constexpr const char* kOp = "dyrelu";
  TORCH_CHECK(x.dim() >= 2 && 0 < channel_dim && channel_dim < x.dim(), kOp,
              ": x must have samples at dimension 0 and channels at channel_dim, got shape ",
              x.sizes(), " and channel_dim ", channel_dim);
  const int64_t samples = x.size(0), channels = x.size(channel_dim), groups = coefficients.size(-1);
  TORCH_CHECK(coefficients.dim() == 3 && coefficients.size(0) == samples &&
                  coefficients.size(1) >= 2 && coefficients.size(1) % 2 == 0 &&
                  coefficients.size(1) <= 2 * kMaxFunctions &&
                  (groups == channels || (groups == 1 && !attention)),
              kOp, ": coefficients must have shape (", samples, ", 2 K, ", channels, " or 1), got ",
              coefficients.sizes());
  TORCH_CHECK(is_supported(x.scalar_type()), kOp,
              ": x must be floating-point of 16, 32 or 64 bits, got ", x.scalar_type());
  const auto check_like = [&](const char* name, const Tensor& t) {
    TORCH_CHECK(t.device() == x.device() && is_supported(t.scalar_type()), kOp, ": ", name,
                " must be floating-point of 16, 32 or 64 bits on ", x.device(), ", got ",
                t.scalar_type(), " on ", t.device());
  };
  check_like("coefficients", coefficients);
  if (attention) {
    check_like("attention", *attention);
    TORCH_CHECK(attention->dim() == x.dim(), kOp, ": attention must have ", x.dim(),
                " dimensions, got ", attention->dim());
    for (int64_t d = 0; d < x.dim(); ++d)
      TORCH_CHECK(attention->size(d) == (d == channel_dim ? 1 : x.size(d)), kOp,
                  ": attention must have the shape of x with one channel, got ",
                  attention->sizes());
  }
  return static_cast<int>(coefficients.size(1) / 2);
}

std::vector<int64_t> one_channel(const Tensor& x, int64_t channel_dim) {
  auto sizes = x.sizes().vec();
  sizes[channel_dim] = 1;
  return sizes;
}

Tensor empty_arithmetic(const Tensor& x, at::IntArrayRef sizes) {
  return at::empty(sizes, x.options().dtype(arithmetic_type(x)));
}

// `Run` is the device's SamplesRun.
template <class Run>
struct DyreluOps {
  static Tensor forward(const Tensor& x, const Tensor& coefficients,
                        const OptionalTensor& attention, int64_t channel_dim) {
    const int count = check_dyrelu(x, coefficients, attention, channel_dim);
    if (x.numel() == 0) return at::empty_like(x);
    Run run(x, coefficients.size(2), channel_dim, false);
    run.read_x(x);
    run.write_new();
    if (attention) run.read_pixels(*attention);
    run.forward(coefficients, count);
    return run.result();
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x,
                                                     const Tensor& coefficients,
                                                     const OptionalTensor& attention,
                                                     int64_t channel_dim) {
    const int count = check_dyrelu(x, coefficients, attention, channel_dim);
    check_grad(grad, x);
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
    run.backward(coefficients, count);
    return {run.result(), run.sums().to(coefficients.scalar_type()).contiguous(),
            attention ? run.pixel_sums().reshape(attention->sizes()).to(attention->scalar_type())
                      : at::empty({0}, x.options())};
  }

  static std::tuple<Tensor, Tensor> squeeze(const Tensor& x, const OptionalTensor& weight,
                                            int64_t channel_dim) {
    check_squeeze(x, weight, channel_dim);
    const int64_t channels = x.size(channel_dim);
    const Tensor none = empty_arithmetic(x, {0});
    if (x.numel() == 0)
      return {empty_arithmetic(x, {x.size(0), channels}).fill_(NAN),
              weight ? empty_arithmetic(x, one_channel(x, channel_dim)).zero_() : none};
    Run run(x, channels, channel_dim, weight.has_value());
    run.read_x(x);
    run.sum(1);
    if (weight) run.sum_pixels();
    const Tensor mean = run.squeeze(weight);
    return {mean, weight ? run.pixel_sums().reshape(one_channel(x, channel_dim)) : none};
  }

  // Adds the gradient of x to grad_x; returns that of the weight, empty without one.
  static Tensor squeeze_backward(Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                                 const OptionalTensor& grad_logits, const OptionalTensor& weight,
                                 int64_t channel_dim) {
    check_squeeze_bwd(grad_x, x, grad_mean, grad_logits, weight, channel_dim);
    const Tensor none = empty_arithmetic(grad_x, {0});
    if (grad_x.numel() == 0) return weight ? at::zeros_like(*weight) : none;
    Run run(grad_x, grad_x.size(channel_dim), channel_dim, false);
    if (weight) {
      run.read_x(*x);
      run.read_pixels(*grad_logits);
      run.sum(1);
    }
    run.add_to(grad_x);
    run.squeeze_backward(weight, grad_mean);
    run.write_to(grad_x);
    return weight ? run.sums().sum(at::IntArrayRef{0, 1}).to(weight->scalar_type()) : none;
  }

  static void add_to(torch::Library& m) {
    m.impl("dyrelu", forward);
    m.impl("dyrelu_bwd", backward);
    m.impl("dyrelu_squeeze", squeeze);
    m.impl("dyrelu_squeeze_bwd_", squeeze_backward);
  }
};

}  // namespace
}  // namespace mmact

#define MMACT_REGISTER_ON(key, Name) \
  TORCH_LIBRARY_IMPL(mmact, key, m) { mmact::DyreluOps<mmact::Name##SamplesRun>::add_to(m); }
MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
