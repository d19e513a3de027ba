// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::arelu and its backward. Schemas, shape functions and autograd are in mmact/ops/arelu.py.
#include "../formulas/piecewise_linear.h"
#include "op.h"

namespace mmact {

struct AreluOp {
  static constexpr const char* kName = "arelu";
  static constexpr size_t kFirstLearned = 0;
  using Settings = AreluSettings;
  using Arguments = void(const Tensor&, const Tensor&, bool);

  Settings settings;
  std::array<Tensor, 2> parameters;
  int64_t groups = 1, channel_dim = 0;

  AreluOp(const Tensor& x, const Tensor& alpha, const Tensor& beta, bool residual)
      : settings{residual} {
    check_input(kName, x, groups, channel_dim);
    TORCH_CHECK(alpha.numel() == 1 && beta.numel() == 1,
                "arelu: alpha and beta must be one number");
    check_parameter(kName, "alpha", alpha, x, alpha.sizes());
    check_parameter(kName, "beta", beta, x, beta.sizes());
    parameters = {alpha.contiguous(), beta.contiguous()};
  }
};

}  // namespace mmact

MMACT_REGISTER(AreluOp)
