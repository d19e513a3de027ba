// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Tensors as the engines' kernels take them.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <utility>

#include "../formulas/storage.h"

namespace mmact {

using at::Tensor;

// The type of `Tensor?` in an op: std::optional, but before torch 2.4 a class of PyTorch's own.
using OptionalTensor = decltype(std::declval<const c10::IValue&>().toOptional<Tensor>());

inline Storage storage_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kHalf:
      return Storage::kHalf;
    case at::kBFloat16:
      return Storage::kBFloat16;
    case at::kFloat:
      return Storage::kFloat;
    default:
      return Storage::kDouble;
  }
}

// The type that kernels on t calculate in.
inline at::ScalarType arithmetic_type(const Tensor& t) {
  return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The result of an elementwise op has the strides of at::empty_like(x): those of x if it is dense,
// else dense ones in the same order. Kernels read tensors of exactly these strides.
inline Tensor with_strides_of(const Tensor& t, const Tensor& dense) {
  if (t.strides() == dense.strides()) return t;
  return at::empty_strided(dense.sizes(), dense.strides(), t.options()).copy_(t);
}

// Contiguous tensors of parameters, as formulas read them or write their gradients.
template <size_t n>
struct ValuesOf {
  Values values[n];

  explicit ValuesOf(const std::array<Tensor, n>& tensors) {
    for (size_t k = 0; k < n; ++k)
      values[k] = {tensors[k].const_data_ptr(), storage_of(tensors[k])};
  }
};

template <size_t n>
struct SlotsOf {
  Slots slots[n];

  // Tensors that are not defined are not written to.
  explicit SlotsOf(const std::array<Tensor, n>& tensors) {
    for (size_t k = 0; k < n; ++k)
      if (tensors[k].defined())
        slots[k] = {tensors[k].mutable_data_ptr(), storage_of(tensors[k])};
      else
        slots[k] = {};
  }
};

}  // namespace mmact
