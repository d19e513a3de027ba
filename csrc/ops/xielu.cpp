// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::xielu and its backward. Schemas, shape functions and autograd are in mmact/ops/xielu.py.
#include "../formulas/xielu.h"

#include "op.h"

namespace mmact {

struct XieluOp {
  static constexpr const char* kName = "xielu";
  static constexpr size_t kFirstLearned = 0;
  using Settings = XieluSettings;
  using Arguments = void(const Tensor&, const Tensor&, double, int64_t);

  Settings settings;
  std::array<Tensor, 2> parameters;
  int64_t groups, channel_dim;

  XieluOp(const Tensor& x, const Tensor& raw_p, const Tensor& raw_n, double beta,
          int64_t channel_dim)
      : settings{beta}, channel_dim(channel_dim) {
    TORCH_CHECK(raw_p.dim() == 1 && raw_p.numel() > 0, "xielu: raw_p must have shape (G,), got ",
                raw_p.sizes());
    groups = raw_p.size(0);
    check_parameter(kName, "raw_p", raw_p, x, {groups});
    check_parameter(kName, "raw_n", raw_n, x, {groups});
    check_input(kName, x, groups, channel_dim);
    parameters = {raw_p.contiguous(), raw_n.contiguous()};
  }
};

}  // namespace mmact

MMACT_REGISTER(XieluOp)
