// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::pwlu and its backward. Schemas, shape functions and autograd are in mmact/ops/pwlu.py.
#include "../formulas/pwlu.h"

#include "op.h"

namespace mmact {

struct PwluOp {
  static constexpr const char* kName = "pwlu";
  static constexpr size_t kFirstLearned = 0;
  using Settings = PwluSettings;
  using Arguments = void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                         int64_t, bool);

  Settings settings;
  std::array<Tensor, 5> parameters;
  int64_t groups, channel_dim;

  PwluOp(const Tensor& x, const Tensor& left_bound, const Tensor& right_bound,
         const Tensor& left_slope, const Tensor& right_slope, const Tensor& points,
         int64_t channel_dim, bool inference)
      : channel_dim(channel_dim) {
    TORCH_CHECK(
        points.dim() == 2 && points.size(1) >= 2 && points.size(1) < 1 << 28 && points.size(0) >= 1,
        "pwlu: points must have shape (G, N + 1), got ", points.sizes());
    groups = points.size(0);
    const auto scalar = [&](const char* name, const Tensor& t) {
      check_parameter(kName, name, t, x, {groups});
      return t.contiguous();
    };
    check_parameter(kName, "points", points, x, points.sizes());
    check_input(kName, x, groups, channel_dim);
    parameters = {scalar("left_bound", left_bound), scalar("right_bound", right_bound),
                  scalar("left_slope", left_slope), scalar("right_slope", right_slope),
                  points.contiguous()};
    settings = {static_cast<int>(points.size(1)) - 1, inference};
  }
};

}  // namespace mmact

MMACT_REGISTER(PwluOp)
