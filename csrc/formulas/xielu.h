// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// xIELU of Huang and Schlag, 2024: alpha_p x^2 + beta x above 0, alpha_n (exp(x) - 1 - x) + beta x
// up to 0, with alpha_p = softplus(raw_p) and alpha_n = beta + softplus(raw_n).
#pragma once

#include <cmath>

#include "formula.h"

namespace mmact {

template <class S>
struct Xielu {
  using V = typename S::V;
  using M = typename S::Math;
  static constexpr int kSums = 2;

  V alpha_p, alpha_n, excess, beta;  // excess is alpha_n - beta

  // exp(x) - 1, for x up to 0; below -80 it is -1.
  MMACT_HD static V expm1(V x) {
    const V within = S::at_least(x, S::set(-80));
    return within * M::expm1_ratio(within);
  }

  template <class Index>
  MMACT_HD V forward(V x, const Index&) const {
    const auto above = x > S::set(0);
    const V bent = S::fma(alpha_n, expm1(S::select(above, S::set(0), x)), -(excess * x));
    return S::select(above, x * S::fma(alpha_p, x, beta), bent);
  }

  // The gradient of x; adds what the element gives to the gradients of alpha_p and alpha_n.
  template <class Index>
  MMACT_HD V backward(V x, V gy, const Index&, V (&sums)[kSums]) const {
    const auto above = x > S::set(0);
    const V zero = S::set(0), m = expm1(S::select(above, zero, x));
    sums[0] = sums[0] + S::select(above, gy * x * x, zero);
    sums[1] = sums[1] + S::select(above, zero, gy * (m - x));
    return gy * S::fma(S::select(above, alpha_p + alpha_p, alpha_n), S::select(above, x, m), beta);
  }
};

struct XieluSettings {
  static constexpr int kParameters = 2;  // raw_p and raw_n (G)
  static constexpr int kTerms = 0;
  static constexpr int kLeastLookups = 0;
  static constexpr bool kSlowSteps = true;

  double beta;

  MMACT_HD int rows() const { return 3; }
  MMACT_HD int backward_rows() const { return 3; }
  MMACT_HD int entries() const { return 2; }
  MMACT_HD int lookups() const { return 0; }

  template <class Use>
  void with_formula(const Use& use) const {
    use(*this);
  }
  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    return Xielu<S>{column.at(0), column.at(1), column.at(2),
                    S::set(static_cast<typename S::Value>(beta))};
  }

  MMACT_HD static double softplus(double v) {
    return v > 0 ? v + ::log1p(::exp(-v)) : ::log1p(::exp(v));
  }
  MMACT_HD static double sigmoid(double v) { return 1 / (1 + ::exp(-v)); }

  struct Group {
    double alpha_p, excess, beta;
    MMACT_HD double number(int row) const {
      return row == 0 ? alpha_p : row == 1 ? beta + excess : excess;
    }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const {
    return {softplus(p[0].at(g)), softplus(p[1].at(g)), beta};
  }

  template <class Sums>
  MMACT_HD void gradients(const Values* p, int64_t g, const Sums& sums, const Slots* out) const {
    for (int k = 0; k < 2; ++k) out[k].put(g, sums(k) * sigmoid(p[k].at(g)));
  }
};

}  // namespace mmact
