// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::batch_statistics: mean and variance of each channel, and BatchNorm's running ones. Schema
// and reference are in mmact/ops/norm.py.
#include "norm.h"

#include "devices.h"

namespace mmact {
namespace {

template <class Device>
std::tuple<Tensor, Tensor> batch_statistics(const Tensor& x, const OptionalTensor& running_mean,
                                            const OptionalTensor& running_var, double momentum) {
  const char* const op = "batch_statistics";
  check_input(op, x, 1, 0);
  TORCH_CHECK(x.dim() >= 2 && x.numel() > x.size(1), op,
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

}  // namespace
}  // namespace mmact

#define MMACT_REGISTER_ON(key, Name)                                          \
  TORCH_LIBRARY_IMPL(mmact, key, m) {                                         \
    m.impl("batch_statistics", mmact::batch_statistics<mmact::Name##Device>); \
  }
MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
