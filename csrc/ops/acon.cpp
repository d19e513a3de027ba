// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::acon and its backward. Schemas, shape functions and autograd are in mmact/ops/acon.py.
#include "../formulas/acon.h"

#include "op.h"

namespace mmact {

struct AconOp {
  static constexpr const char* kName = "acon";
  static constexpr size_t kFirstLearned = 0;
  using Settings = AconSettings;
  using Arguments = void(const Tensor&, const Tensor&, const Tensor&, int64_t);

  Settings settings;
  std::array<Tensor, 3> parameters;
  int64_t groups, channel_dim;

  AconOp(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
         int64_t channel_dim)
      : channel_dim(channel_dim) {
    TORCH_CHECK(p1.dim() == 1 && p1.numel() > 0, "acon: p1 must have shape (G,), got ", p1.sizes());
    groups = p1.size(0);
    check_parameter(kName, "p1", p1, x, {groups});
    check_parameter(kName, "p2", p2, x, {groups});
    check_parameter(kName, "beta", beta, x, {groups});
    check_input(kName, x, groups, channel_dim);
    parameters = {p1.contiguous(), p2.contiguous(), beta.contiguous()};
  }
};

}  // namespace mmact

MMACT_REGISTER(AconOp)
