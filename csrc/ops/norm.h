// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The normalisation in front of an elementwise op: z = (x - mean) / sqrt(var + eps) * weight +
// bias, plus a residual, of which the op computes its function.
#pragma once

#include <cmath>

#include "../formulas/macros.h"
#include "checks.h"

namespace mmact {

struct NormOf {
  Tensor mean, var, weight, bias;  // (C,); weight and bias may be undefined
  Tensor residual;                 // with the strides of the result, or undefined
  double eps;

  // `like` has the strides of the result; its channels are at dimension 1.
  NormOf(const char* op, const Tensor& like, const Tensor& mean, const Tensor& var,
         const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& residual,
         double eps)
      : eps(eps) {
    TORCH_CHECK(like.dim() >= 2, op, ": x must have channels at dimension 1, got ", like.sizes());
    const auto vector = [&](const char* name, const Tensor& t) {
      check_parameter(op, name, t, like, {like.size(1)});
      return t.contiguous();
    };
    this->mean = vector("mean", mean);
    this->var = vector("var", var);
    if (weight) this->weight = vector("weight", *weight);
    if (bias) this->bias = vector("bias", *bias);
    if (!residual) return;
    TORCH_CHECK(residual->sizes() == like.sizes() && residual->dtype() == like.dtype() &&
                    residual->device() == like.device(),
                op, ": the residual must be like x, got ", residual->sizes());
    this->residual = with_strides_of(*residual, like);
  }

  int64_t channels() const { return mean.size(0); }
};

// The numbers of a channel.
struct NormReader {
  Values mean, var, weight, bias;
  double eps;

  explicit NormReader(const NormOf& norm) : eps(norm.eps) {
    const auto values = [](const Tensor& t) {
      return t.defined() ? Values{t.const_data_ptr(), storage_of(t)} : Values{};
    };
    mean = values(norm.mean);
    var = values(norm.var);
    weight = values(norm.weight);
    bias = values(norm.bias);
  }
  MMACT_HD double inv_std(int64_t c) const { return 1 / ::sqrt(var.at(c) + eps); }
  MMACT_HD double scale(int64_t c) const {
    return weight.data == nullptr ? inv_std(c) : weight.at(c) * inv_std(c);
  }
  MMACT_HD double shift(int64_t c) const {
    return (bias.data == nullptr ? 0 : bias.at(c)) - mean.at(c) * scale(c);
  }
};

}  // namespace mmact
