// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// A piecewise-linear function with any breakpoints: APL, Mixture and the leaky functions; AReLU.
#pragma once

#include <cmath>

#include "formula.h"

namespace mmact {

// The numbers of a channel: S breakpoints, then S + 1 slopes, then S + 1 offsets. kCount is S, or 0
// if S is known only at run time.
template <class S, int kCount, class Rows>
struct PiecewiseLinear {
  using V = typename S::V;
  using I = typename S::I;

  static constexpr int kTerms = 2;  // sums per segment: of gy, and of gy * x

  Rows rows;
  int count_;

  MMACT_HD int count() const { return kCount > 0 ? kCount : count_; }

  template <class Index>
  MMACT_HD V forward(V x, const Index&) const {
    const int n = count();
    V slope = rows.at(n), offset = rows.at(2 * n + 1);
    for (int s = 0; s < n; ++s) {
      const auto passed = x >= rows.at(s);  // false for NaN, which stays in the first segment
      slope = S::select(passed, rows.at(n + 1 + s), slope);
      offset = S::select(passed, rows.at(2 * n + 2 + s), offset);
    }
    return S::fma(x, slope, offset);
  }

  // The gradient of x, and what the element adds to the sums of segment `bin`.
  MMACT_HD V backward(V x, V gy, I& bin, V (&terms)[kTerms]) const {
    const int n = count();
    V slope = rows.at(n);
    bin = I{};
    for (int s = 0; s < n; ++s) {
      const auto passed = x >= rows.at(s);
      slope = S::select(passed, rows.at(n + 1 + s), slope);
      bin = S::increment_where(bin, passed);
    }
    terms[0] = gy;
    terms[1] = gy * x;
    return gy * slope;
  }
};

// With one breakpoint, as AReLU and the leaky functions have, the numbers stay in registers.
template <int kCount>
struct PiecewiseLinearFormula {
  int count;

  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    if constexpr (kCount > 0) {
      using Local = LocalRows<typename S::V, 3 * kCount + 2>;
      return PiecewiseLinear<S, kCount, Local>{Local::load(column), kCount};
    } else {
      return PiecewiseLinear<S, 0, Column>{column, count};
    }
  }
};

struct PiecewiseLinearSettings {
  static constexpr int kParameters = 3;  // breakpoints (G, S), slopes and offsets (G, S + 1)
  static constexpr int kTerms = 2;
  static constexpr int kLeastLookups = 0;
  static constexpr bool kSlowSteps = false;

  int count;  // S

  MMACT_HD int rows() const { return 3 * count + 2; }
  MMACT_HD int backward_rows() const { return 2 * count + 1; }
  MMACT_HD int entries() const { return kTerms * (count + 1); }
  MMACT_HD int lookups() const { return 0; }

  template <class Use>
  void with_formula(const Use& use) const {
    if (count == 1)
      use(PiecewiseLinearFormula<1>{count});
    else
      use(PiecewiseLinearFormula<0>{count});
  }

  struct Group {
    const Values* p;
    int64_t g;
    int count;

    MMACT_HD double number(int row) const {
      if (row < count) return p[0].at(g * count + row);
      const int segments = count + 1;
      row -= count;
      return row < segments ? p[1].at(g * segments + row) : p[2].at(g * segments + row - segments);
    }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const { return {p, g, count}; }

  // The gradients of slopes and offsets are the sums of gy * x and of gy over each segment.
  template <class Sums>
  MMACT_HD void gradients(const Values*, int64_t g, const Sums& sums, const Slots* out) const {
    for (int s = 0; s <= count; ++s) {
      out[1].put(g * (count + 1) + s, sums(2 * s + 1));
      out[2].put(g * (count + 1) + s, sums(2 * s));
    }
  }
};

// With a breakpoint at 0 and one parameter for each slope: of gy * x, the sums below 0 and above.
template <class S, class Rows>
struct Arelu : PiecewiseLinear<S, 1, Rows> {
  using V = typename S::V;
  static constexpr int kSums = 2;

  template <class Index>
  MMACT_HD V backward(V x, V gy, const Index&, V (&sums)[kSums]) const {
    const auto passed = x >= this->rows.at(0);
    const V term = gy * x;
    sums[0] = S::select(passed, sums[0], sums[0] + term);
    sums[1] = S::select(passed, sums[1] + term, sums[1]);
    return gy * S::select(passed, this->rows.at(2), this->rows.at(1));
  }
};

// AReLU, and ELSA without the residual: sections 3.2 and 3.3 of Chen et al., 2020.
struct AreluSettings {
  static constexpr int kParameters = 2;  // alpha and beta, one number each
  static constexpr int kTerms = 0;
  static constexpr int kLeastLookups = 0;
  static constexpr bool kSlowSteps = false;
  static constexpr double kLow = 0.01, kHigh = 0.99;  // of the clamp

  bool residual;

  MMACT_HD int rows() const { return 5; }
  MMACT_HD int backward_rows() const { return 3; }
  MMACT_HD int entries() const { return 2; }
  MMACT_HD int lookups() const { return 0; }

  template <class Use>
  void with_formula(const Use& use) const {
    use(*this);
  }
  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    using Local = LocalRows<typename S::V, 5>;
    return Arelu<S, Local>{{Local::load(column), 1}};
  }

  MMACT_HD static double sigmoid(double v) { return 1 / (1 + ::exp(-v)); }

  struct Group {
    double below, above;

    MMACT_HD double number(int row) const { return row == 1 ? below : row == 2 ? above : 0; }
  };
  MMACT_HD Group group(const Values* p, int64_t) const {
    const double alpha = p[0].at(0);
    const double below = alpha < kLow ? kLow : alpha > kHigh ? kHigh : alpha;  // NaN stays
    return {below, sigmoid(p[1].at(0)) + residual};
  }

  // From the sums of gy * x below and above 0. The clamp passes no gradient.
  template <class Sums>
  MMACT_HD void gradients(const Values* p, int64_t, const Sums& sums, const Slots* out) const {
    const double alpha = p[0].at(0), s = sigmoid(p[1].at(0));
    out[0].put(0, kLow <= alpha && alpha <= kHigh ? sums(0) : 0);
    out[1].put(0, s * (1 - s) * sums(1));
  }
};

}  // namespace mmact
