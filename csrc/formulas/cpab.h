// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// CPAB transformations of the line (Freifeld et al., TPAMI 2017) and the activations made of them,
// DiTAC's Eq. 4 to 7: y = T(x) * factor(x).
//
// formulas/cpab_table.h makes the table of a transformation, one column of constants for each
// segment of x. With z = x - p, in the domain,
//
//   T(x) = x + d + z * ((1 + m) * g * h - 1),  g = log1p(A) / A,  h = expm1(B) / B,
//   A = alpha * z >= 0,  B = beta * z * g.
#pragma once

#include <limits>

#include "formula.h"

namespace mmact {

enum class CpabFactor { kOne, kGelu, kGeluBelowZero, kLeaky };

struct CpabForm {
  CpabFactor factor;
  double negative_slope;  // of kLeaky
  int breakpoints;
  int filled;  // the size of the search tree, and 1
};

// Derivatives of log1p(a) / a and expm1(b) / b, given the value. Near 0 they are series, where the
// quotient rule would cancel.
template <class S>
struct CpabDerivatives {
  using V = typename S::V;
  static constexpr bool kFloat = sizeof(typename S::Value) == 4;
  static constexpr double kNear = 0.5;
  static constexpr int kLogTerms = kFloat ? 5 : 12, kExpTerms = kFloat ? 8 : 15;

  // With w = a / (2 + a), log1p(a) = 2 artanh(w); nothing cancels as a >= 0. `r` is 1 / (1 + a).
  MMACT_HD static V of_log1p_ratio(V a, V g, V r) {
    const V rest = S::divide(S::set(2), a + S::set(2)), w = S::set(0.5) * a * rest, t = w * w;
    V q = S::set(1.0 / (2 * kLogTerms + 1));
    MMACT_UNROLL
    for (int k = kLogTerms - 2; k >= 0; --k) q = S::fma(q, t, S::set(1.0 / (2 * k + 3)));
    const V near = S::set(-0.5) * r * S::fma(rest * w, q, g);
    return S::select(a < S::set(kNear), near, S::divide(r - g, a));
  }

  MMACT_HD static V of_expm1_ratio(V b, V h) {
    // The sum of (k + 1) b^k / (k + 2)!, from the last term on.
    double coefficient = 1;
    MMACT_UNROLL
    for (int k = 1; k <= kExpTerms; ++k) coefficient *= (k + 1.0) / (k * (k + 2.0));
    V sum = S::set(0.5 * coefficient);
    MMACT_UNROLL
    for (int k = kExpTerms; k > 0; --k) {
      coefficient *= k * (k + 2.0) / (k + 1.0);
      sum = S::fma(sum, b, S::set(0.5 * coefficient));
    }
    const V far = S::divide(S::fma(b - S::set(1), h, S::set(1)), b);
    return S::select(S::abs(b) < S::set(kNear), sum, far);
  }
};

// The function of one channel (or of one channel per lane, if Table looks up lane by lane).
// kFilled is that of the settings, or 0 if it is known only at run time.
template <class S, class Table, int kFilled>
struct Cpab {
  using V = typename S::V;
  using M = typename S::Math;
  using I = typename S::I;

  static constexpr int kTerms = 4;  // sums per segment: gradients of d, m, alpha and beta

  CpabForm settings;
  Table breakpoints, p, d, m, alpha, beta;

  // The number of breakpoints up to x: `breakpoints` is a binary search tree of kFilled - 1 nodes,
  // whose node k has the children 2 k and 2 k + 1. NaN, and the NaN that it is filled up with, are
  // beyond none and all.
  MMACT_HD I segment(V x) const {
    if constexpr (kFilled > 0) return below<1>(x, I{} + 1);
    I k = I{} + 1;
    for (int size = 1; size < settings.filled; size *= 2)
      k = S::increment_where(k + k, x >= breakpoints.at(k));
    return k + -settings.filled;
  }
  template <int kFirst>  // node of a level
  MMACT_HD I below(V x, I k) const {
    if constexpr (kFirst == kFilled) {
      return k + -kFilled;
    } else {
      const V node = breakpoints.template between<kFirst, 2 * kFirst>(k);
      return below<2 * kFirst>(x, S::increment_where(k + k, x >= node));
    }
  }

  // Intermediate results of forward and backward.
  struct Point {
    V z, gain, g, h, a, bz;  // gain is 1 + m, bz is beta * z
    V t;                     // T(x)
  };

  // An outer segment has p = alpha = beta = 0: it is d + x + m * x, m being 0 where T(x) = x.
  MMACT_HD Point at(V x, I i) const {
    Point point;
    const V m_i = m.at(i), d_i = d.at(i);
    point.z = bounded<S>(x - p.at(i));
    point.a = alpha.at(i) * point.z;
    point.bz = beta.at(i) * point.z;
    point.g = M::log1p_ratio(point.a);
    point.h = M::expm1_ratio(point.bz * point.g);
    point.gain = S::set(1) + m_i;
    const V f = point.g * point.h;
    point.t = x + S::fma(point.z, S::fma(m_i, f, f - S::set(1)), d_i);
    return point;
  }

  MMACT_HD static V bounded_below(V v) {
    return S::at_least(v, S::set(std::numeric_limits<typename S::Value>::lowest()));
  }

  // The slope of x in segment i: 1 in the domain.
  MMACT_HD V leaky(V x, I i) const {
    const V slope = S::select(x < S::set(0), S::set(settings.negative_slope), S::set(1));
    const V right = S::select(i == I{} + settings.breakpoints, slope, S::set(1));
    return S::select(i == I{}, slope, right);
  }

  template <class Index>
  MMACT_HD V forward(V x, const Index&) const {
    const I i = segment(x);
    const Point point = at(x, i);
    switch (settings.factor) {
      case CpabFactor::kOne:
        return point.t;
      case CpabFactor::kLeaky:
        return point.t * leaky(x, i);
      case CpabFactor::kGelu:
        return bounded_below(point.t) * M::normal_cdf(x);
      case CpabFactor::kGeluBelowZero:
        return S::select(x < S::set(0), bounded_below(point.t) * M::normal_cdf(x), point.t);
    }
    return point.t;
  }

  // The gradient of x, and what the element adds to the sums of segment `bin`.
  MMACT_HD V backward(V x, V gy, I& bin, V (&terms)[kTerms]) const {
    // NaN is put into the domain, so that the gradient of theta shows it.
    bin = S::select_index(x == x, segment(x), I{} + 1);
    const Point point = at(x, bin);
    V gt = gy, gx = S::set(0);  // the gradient of T(x), and what the factor's derivative adds
    if (settings.factor == CpabFactor::kLeaky) {
      gt = gy * leaky(x, bin);
    } else if (settings.factor != CpabFactor::kOne) {
      gt = gy * M::normal_cdf(x);
      // The product that goes to 0 first: gy times a large number may be infinite.
      gx = gy * (bounded<S>(point.t) * M::normal_pdf(x));
      if (settings.factor == CpabFactor::kGeluBelowZero) {
        gt = S::select(x < S::set(0), gt, gy);
        gx = S::select(x < S::set(0), gx, S::set(0));
      }
    }
    const V z = point.z, g = point.g, h = point.h, b = point.bz * g;
    const V r = S::divide(S::set(1), S::set(1) + point.a);
    const V dg = CpabDerivatives<S>::of_log1p_ratio(point.a, g, r);
    const V dh = CpabDerivatives<S>::of_expm1_ratio(b, h);
    const V scaled = gt * point.gain * z * z;
    terms[0] = gt;
    terms[1] = gt * z * g * h;
    terms[2] = scaled * dg * S::fma(point.bz * g, dh, h);
    terms[3] = scaled * g * g * dh;
    // expm1(B) = B h: T' = (1 + m) exp(B) / (1 + A).
    return S::fma(gt, point.gain * S::fma(b, h, S::set(1)) * r, gx);
  }
};

template <int kFilled>
struct CpabFormula {
  CpabForm form;
  int first, segments;  // of each column of constants: the row, and how many

  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    const auto constants = [&](int number) MMACT_LAMBDA {
      return column.table(first + number * segments, segments);
    };
    using Table = decltype(column.table(0, 0));
    return Cpab<S, Table, kFilled>{form,         column.table(0, first), constants(0), constants(1),
                                   constants(2), constants(3),           constants(4)};
  }
};

struct CpabSettings {
  static constexpr int kParameters = 2;  // breakpoints (G, E), and the table (G, E + 1, 5)
  static constexpr int kTerms = 4;
  static constexpr bool kSlowSteps = true;
  static constexpr int kColumns = 5, kLeastLookups = 32;

  CpabForm form;
  double largest;  // constant; beyond, the arithmetic could not hold sums of several

  MMACT_HD int segments() const { return form.breakpoints + 1; }
  // The table of a group: the search tree, from row 1 on, then columns of constants.
  MMACT_HD int rows() const { return form.filled + kColumns * segments(); }
  MMACT_HD int backward_rows() const { return rows(); }
  MMACT_HD int entries() const { return kTerms * segments(); }
  MMACT_HD int lookups() const { return form.filled; }

  template <class Use>
  void with_formula(const Use& use) const {
    if (form.filled == kLeastLookups)
      use(CpabFormula<kLeastLookups>{form, form.filled, segments()});
    else
      use(CpabFormula<0>{form, form.filled, segments()});
  }

  struct Group {
    const CpabSettings* settings;
    const Values* p;
    int64_t g;

    MMACT_HD double number(int row) const {
      const int count = settings->form.breakpoints, segments = settings->segments();
      const int filled = settings->form.filled;
      if (row < filled) {
        // A node, from left to right: the first of its level is followed by a whole tree of `step`.
        int step = filled;
        for (int k = row; k > 0; k /= 2) step /= 2;
        const int node = 2 * step * row - filled + step;
        return 1 <= node && node <= count ? p[0].at(g * count + node - 1)
                                          : std::numeric_limits<double>::quiet_NaN();
      }
      row -= filled;
      const double value = p[1].at((g * segments + row % segments) * kColumns + row / segments);
      const double largest = settings->largest;
      return value > largest ? largest : value < -largest ? -largest : value;
    }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const { return {this, p, g}; }

  template <class Sums>
  MMACT_HD void gradients(const Values*, int64_t g, const Sums& sums, const Slots* out) const {
    for (int s = 0; s < segments(); ++s) {
      const int64_t row = (g * segments() + s) * kColumns;
      out[1].put(row, 0);
      for (int t = 0; t < kTerms; ++t) out[1].put(row + 1 + t, sums(kTerms * s + t));
    }
  }
};

}  // namespace mmact
