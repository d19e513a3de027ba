// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The last line of defence against reading out of range, when an op is called past its function in
// mmact.ops, which explains what to do.
#pragma once

#include "tensors.h"

namespace mmact {

// The dtypes that kernels are built for; at::isFloatingType also has 8-bit types.
inline bool is_supported(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

// `x` is an input whose channels at `channel_dim` are divided into `groups`.
inline void check_input(const char* op, const Tensor& x, int64_t groups, int64_t channel_dim) {
  TORCH_CHECK(is_supported(x.scalar_type()), op,
              ": x must be floating-point of 16, 32 or 64 bits, got ", x.scalar_type());
  TORCH_CHECK(groups == 1 || (0 <= channel_dim && channel_dim < x.dim() && groups > 0 &&
                              x.size(channel_dim) % groups == 0),
              op, ": the channels of x of shape ", x.sizes(), " at dimension ", channel_dim,
              " cannot be divided into ", groups, " groups");
}

// `t` is a parameter that goes with x.
inline void check_parameter(const char* op, const char* name, const Tensor& t, const Tensor& x,
                            at::IntArrayRef shape) {
  TORCH_CHECK(t.sizes() == shape, op, ": ", name, " must have shape ", shape, ", got ", t.sizes());
  TORCH_CHECK(t.device() == x.device() && is_supported(t.scalar_type()), op, ": ", name,
              " must be floating-point of 16, 32 or 64 bits on ", x.device(), ", got ",
              t.scalar_type(), " on ", t.device());
}

inline void check_grad(const Tensor& grad, const Tensor& x) {
  TORCH_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type() &&
                  grad.device() == x.device(),
              "grad must be like x, got ", grad.sizes(), " of ", grad.scalar_type(), " on ",
              grad.device());
}

}  // namespace mmact
