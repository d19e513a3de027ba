// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// ACON-C of Ma et al., CVPR 2021: y = (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x.
#pragma once

#include "formula.h"

namespace mmact {

// With d = p1 - p2, k = beta d and s = sigmoid(k x): y = x (p2 + d s).
template <class S>
struct Acon {
  using V = typename S::V;
  using M = typename S::Math;
  static constexpr int kSums = 3;

  V p2, d, k;

  struct Gate {
    V s, rest, slope;  // rest is 1 - s, slope the derivative of s by k x
  };
  MMACT_HD Gate gate(V x) const {
    const V t = k * bounded<S>(x), zero = S::set(0), one = S::set(1);
    const auto below = t < zero;
    const V e = M::exp_negative(S::select(below, t, -t));
    const V near = S::divide(one, one + e), far = e * near;
    return {S::select(below, far, near), S::select(below, near, far), far * near};
  }

  // 0 where the gate is 0 or closes.
  MMACT_HD static V product(V x, V part) {
    return S::select(part == S::set(0), S::set(0), x * part);
  }

  template <class Index>
  MMACT_HD V forward(V x, const Index&) const {
    return product(x, S::fma(d, gate(x).s, p2));
  }

  // The gradient of x; adds the element's gy x s, gy x (1 - s) and gy x^2 s (1 - s).
  template <class Index>
  MMACT_HD V backward(V x, V gy, const Index&, V (&sums)[kSums]) const {
    const Gate g = gate(x);
    const V curved = product(x, g.slope);
    sums[0] = S::fma(gy, product(x, g.s), sums[0]);
    sums[1] = S::fma(gy, product(x, g.rest), sums[1]);
    sums[2] = S::fma(gy, product(x, curved), sums[2]);
    return gy * S::fma(d, S::fma(k, curved, g.s), p2);
  }
};

struct AconSettings {
  static constexpr int kParameters = 3;  // p1, p2 and beta (G)
  static constexpr int kTerms = 0;
  static constexpr int kLeastLookups = 0;
  static constexpr bool kSlowSteps = true;

  MMACT_HD int rows() const { return 3; }
  MMACT_HD int backward_rows() const { return 3; }
  MMACT_HD int entries() const { return 3; }
  MMACT_HD int lookups() const { return 0; }

  template <class Use>
  void with_formula(const Use& use) const {
    use(*this);
  }
  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    return Acon<S>{column.at(0), column.at(1), column.at(2)};
  }

  struct Group {
    double p2, d, beta;
    MMACT_HD double number(int row) const { return row == 0 ? p2 : row == 1 ? d : beta * d; }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const {
    return {p[1].at(g), p[0].at(g) - p[1].at(g), p[2].at(g)};
  }

  template <class Sums>
  MMACT_HD void gradients(const Values* p, int64_t g, const Sums& sums, const Slots* out) const {
    const Group f = group(p, g);
    const double curved = f.beta * f.d * sums(2);  // what d moves within the gate
    out[0].put(g, sums(0) + curved);
    out[1].put(g, sums(1) - curved);
    out[2].put(g, f.d * f.d * sums(2));
  }
};

}  // namespace mmact
