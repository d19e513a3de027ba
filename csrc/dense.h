// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>

namespace mmact {

// The result of an elementwise op has the strides of at::empty_like(x): those of x if it is dense,
// else dense ones in the same order. Kernels read tensors of exactly these strides.
inline at::Tensor with_strides_of(const at::Tensor& t, const at::Tensor& dense) {
  if (t.strides() == dense.strides()) return t;
  return at::empty_strided(dense.sizes(), dense.strides(), t.options()).copy_(t);
}

}  // namespace mmact
