// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What the CPU's and the GPU's mmact::cpab and mmact::cpab_table share: from arguments to the
// kernel's numbers and settings, and from its sums to gradients.
#pragma once

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

#include <cfloat>
#include <limits>

#include "checks.h"
#include "formulas/cpab.h"
#include "formulas/cpab_table.h"

namespace mmact {

// The arguments of mmact::cpab without x.
struct CpabArguments {
  at::Tensor breakpoints, table;
  CpabSettings settings;

  CpabArguments(const at::Tensor& x, const at::Tensor& breakpoints, const at::Tensor& table,
                int64_t channel_dim, c10::string_view factor, double negative_slope)
      : breakpoints(breakpoints), table(table) {
    TORCH_CHECK(breakpoints.dim() == 2 && breakpoints.numel() > 0 && breakpoints.size(1) < 1 << 20,
                "cpab: breakpoints must have shape (G, E), got ", breakpoints.sizes());
    const int64_t groups = breakpoints.size(0), count = breakpoints.size(1);
    check_parameter("cpab", "breakpoints", breakpoints, x, groups, count);
    TORCH_CHECK(table.dim() == 3 && table.size(0) == groups && table.size(1) == count + 1 &&
                    table.size(2) == kCpabColumns && table.device() == x.device(),
                "cpab: table must have shape (", groups, ", ", count + 1, ", 5), got ",
                table.sizes());
    check_input("cpab", x, groups, channel_dim);
    settings = {};
    settings.factor = factor_named(factor);
    settings.negative_slope = negative_slope;
    settings.breakpoints = static_cast<int>(count);
    settings.first_step = CpabSettings::kLeastFirstStep;
    while (settings.filled() <= count) settings.first_step *= 2;
  }

  static CpabFactor factor_named(c10::string_view name) {
    if (name == "one") return CpabFactor::kOne;
    if (name == "gelu") return CpabFactor::kGelu;
    if (name == "gelu_below_0") return CpabFactor::kGeluBelowZero;
    TORCH_CHECK(name == "leaky", "cpab: factor must be one, gelu, gelu_below_0 or leaky");
    return CpabFactor::kLeaky;
  }

  int64_t groups() const { return breakpoints.size(0); }
  int64_t segments() const { return settings.segments(); }
  int64_t entries() const { return segments() * (kCpabColumns - 1); }

  // The numbers of each group as formulas/cpab.h reads them, (G, rows), in the arithmetic
  // type of x. Constants that it cannot hold are cut off where sums of several still fit.
  at::Tensor numbers(const at::Tensor& x) const {
    const at::ScalarType dtype = at::toOpMathType(x.scalar_type());
    const double largest = (dtype == at::kDouble ? DBL_MAX : static_cast<double>(FLT_MAX)) / 8;
    at::Tensor numbers = at::full({groups(), settings.rows()},
                                  std::numeric_limits<double>::quiet_NaN(), breakpoints.options());
    numbers.narrow(1, 1, settings.breakpoints).copy_(breakpoints);
    numbers.narrow(1, settings.filled(), kCpabColumns * segments())
        .copy_(table.clamp(-largest, largest).transpose(1, 2).reshape({groups(), -1}));
    return numbers.to(dtype);
  }

  // `sums`: (4 segments, at least G), of each segment's d, m, alpha and beta.
  std::tuple<at::Tensor, at::Tensor> gradients(const at::Tensor& gx, const at::Tensor& sums) const {
    at::Tensor g_table = at::zeros(table.sizes(), table.options());
    g_table.narrow(2, 1, kCpabColumns - 1)
        .copy_(sums.narrow(1, 0, groups()).t().reshape({groups(), segments(), kCpabColumns - 1}));
    return {gx, g_table};
  }
};

// The arguments of mmact::cpab_table without theta.
inline CpabDomain cpab_domain(const at::Tensor& theta, double a, double b, bool affine,
                              bool single) {
  TORCH_CHECK(theta.dim() == 2 && theta.numel() > 0 && theta.size(1) < 1 << 19 &&
                  is_supported(theta.scalar_type()) && a < b,
              "cpab_table: theta must be floating-point of shape (G, N - 1), got ",
              theta.scalar_type(), " of ", theta.sizes());
  const double epsilon = single ? static_cast<double>(FLT_EPSILON) : DBL_EPSILON;
  return {static_cast<int>(theta.size(1)) + 1, a, b, affine, epsilon};
}

inline void check_cpab_table_gradient(const at::Tensor& grad, const at::Tensor& theta) {
  TORCH_CHECK(grad.dim() == 3 && grad.size(0) == theta.size(0) &&
                  grad.size(1) == 2 * (theta.size(1) + 1) + 1 && grad.size(2) == kCpabColumns &&
                  grad.scalar_type() == at::kDouble && grad.device() == theta.device(),
              "cpab_table: the table's gradient does not fit theta, got ", grad.sizes());
}

}  // namespace mmact
