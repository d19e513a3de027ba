// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::piecewise_linear and its backward. Schemas, shape functions and autograd are in
// mmact/ops/piecewise_linear.py.
#include "../formulas/piecewise_linear.h"

#include "op.h"

namespace mmact {

struct PiecewiseLinearOp {
  static constexpr const char* kName = "piecewise_linear";
  static constexpr size_t kFirstLearned = 1;
  using Settings = PiecewiseLinearSettings;
  using Arguments = void(const Tensor&, const Tensor&, const Tensor&, int64_t);

  Settings settings;
  std::array<Tensor, 3> parameters;
  int64_t groups, channel_dim;

  PiecewiseLinearOp(const Tensor& x, const Tensor& breakpoints, const Tensor& slopes,
                    const Tensor& offsets, int64_t channel_dim)
      : channel_dim(channel_dim) {
    TORCH_CHECK(breakpoints.dim() == 2 && breakpoints.numel() > 0 && breakpoints.size(1) < 1 << 20,
                "piecewise_linear: breakpoints must have shape (G, S), got ", breakpoints.sizes());
    groups = breakpoints.size(0);
    const int64_t count = breakpoints.size(1);
    check_parameter(kName, "breakpoints", breakpoints, x, {groups, count});
    check_parameter(kName, "slopes", slopes, x, {groups, count + 1});
    check_parameter(kName, "offsets", offsets, x, {groups, count + 1});
    check_input(kName, x, groups, channel_dim);
    parameters = {breakpoints.contiguous(), slopes.contiguous(), offsets.contiguous()};
    settings = {static_cast<int>(count)};
  }
};

}  // namespace mmact

MMACT_REGISTER(PiecewiseLinearOp)
