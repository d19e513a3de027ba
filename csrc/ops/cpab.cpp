// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::cpab and its backward. Schemas, shape functions and autograd are in mmact/ops/cpab.py.
#include "../formulas/cpab.h"

#include <cfloat>

#include "op.h"

namespace mmact {

struct CpabOp {
  static constexpr const char* kName = "cpab";
  static constexpr size_t kFirstLearned = 1;
  using Settings = CpabSettings;
  using Arguments = void(const Tensor&, const Tensor&, int64_t, c10::string_view, double);

  Settings settings;
  std::array<Tensor, 2> parameters;
  int64_t groups, channel_dim;

  CpabOp(const Tensor& x, const Tensor& breakpoints, const Tensor& table, int64_t channel_dim,
         c10::string_view factor, double negative_slope)
      : channel_dim(channel_dim) {
    TORCH_CHECK(breakpoints.dim() == 2 && breakpoints.numel() > 0 && breakpoints.size(1) < 1 << 20,
                "cpab: breakpoints must have shape (G, E), got ", breakpoints.sizes());
    groups = breakpoints.size(0);
    const int64_t count = breakpoints.size(1);
    check_parameter(kName, "breakpoints", breakpoints, x, {groups, count});
    check_parameter(kName, "table", table, x, {groups, count + 1, Settings::kColumns});
    check_input(kName, x, groups, channel_dim);
    parameters = {breakpoints.contiguous(), table.contiguous()};
    int filled = Settings::kLeastLookups;
    while (filled <= count) filled *= 2;
    const double most = x.scalar_type() == at::kDouble ? DBL_MAX : static_cast<double>(FLT_MAX);
    settings = {{factor_named(factor), negative_slope, static_cast<int>(count), filled}, most / 8};
  }

  static CpabFactor factor_named(c10::string_view name) {
    if (name == "one") return CpabFactor::kOne;
    if (name == "gelu") return CpabFactor::kGelu;
    if (name == "gelu_below_0") return CpabFactor::kGeluBelowZero;
    TORCH_CHECK(name == "leaky", "cpab: factor must be one, gelu, gelu_below_0 or leaky");
    return CpabFactor::kLeaky;
  }
};

}  // namespace mmact

MMACT_REGISTER(CpabOp)
