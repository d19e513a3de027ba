// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::batch_statistics: mean and variance of each channel, and BatchNorm's running ones;
// mmact::add_centered_: what a gradient gets through them. Schemas and references are in
// mmact/ops/norm.py.
#include "norm.h"

#include "devices.h"

namespace mmact {
namespace {

template <class Device>
std::tuple<Tensor, Tensor> batch_statistics(const Tensor& x, const OptionalTensor& running_mean,
                                            const OptionalTensor& running_var, double momentum) {
  const char* const op = "batch_statistics";
  check_input(op, x, 1, 0);
  // One value has a variance, but not Bessel's.
  TORCH_CHECK(x.dim() >= 2 && x.numel() > (running_var ? x.size(1) : 0), op,
              ": x must have more than one value per channel at dimension 1, got ", x.sizes());
  for (const auto& running : {running_mean, running_var})
    if (running) {
      check_parameter(op, "a running statistic", *running, x, {x.size(1)});
      TORCH_CHECK(running->is_contiguous(), op, ": running statistics must be contiguous");
    }
  const auto options = x.options().dtype(arithmetic_type(x));
  Tensor mean = at::empty({x.size(1)}, options), var = at::empty({x.size(1)}, options);
  Device::DeviceNorm::statistics(with_strides_of(x, at::empty_like(x)), running_mean, running_var,
                                 momentum, mean, var);
  return {mean, var};
}

template <class Device>
void add_centered_(Tensor& grad, const Tensor& x, const Tensor& center, const Tensor& factor,
                   const Tensor& shift) {
  const char* const op = "add_centered_";
  check_input(op, x, 1, 0);
  check_grad(grad, x);
  TORCH_CHECK(x.dim() >= 2, op, ": x must have channels at dimension 1, got ", x.sizes());
  TORCH_CHECK(grad.is_non_overlapping_and_dense(), op, ": grad must be dense");
  check_parameter(op, "center", center, x, {x.size(1)});
  check_parameter(op, "factor", factor, x, {x.size(1)});
  check_parameter(op, "shift", shift, x, {x.size(1)});
  if (x.numel() == 0) return;
  Device::DeviceNorm::add_centered(grad, with_strides_of(x, grad), center.contiguous(),
                                   factor.contiguous(), shift.contiguous());
}

}  // namespace
}  // namespace mmact

#define MMACT_REGISTER_ON(key, Name)                                          \
  TORCH_LIBRARY_IMPL(mmact, key, m) {                                         \
    m.impl("batch_statistics", mmact::batch_statistics<mmact::Name##Device>); \
    m.impl("add_centered_", mmact::add_centered_<mmact::Name##Device>);       \
  }
MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
