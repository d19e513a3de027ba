// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The Piecewise Linear Unit of Zhou et al., ICCV 2021: Eq. 1 to 4, Table 1 and section 4.3.
//
// A formula is written once, on a number system S: one float or double of a CUDA thread, or a SIMD
// vector of them on a CPU (Scalar in cuda/scalar.h, Simd in cpu/simd_*.h). The N intervals and the
// two outer regions are segments -1, 0, ..., N, stored from 0: segment k is entry k + 1 of a table.
#pragma once

#include <type_traits>

#include "formula.h"

namespace mmact {

// Smallest effective width B_R - B_L; PWLU_MIN_WIDTH of mmact/ops/reference/pwlu.py.
constexpr double kPwluMinWidth = 1e-6;

// The function of one channel (or of one channel per lane, if Table looks up lane by lane).
template <class S, class Table>
struct Pwlu {
  using V = typename S::V;
  using I = typename S::I;

  static constexpr int kTerms = 2;  // sums per segment: of gy, and of gy * (x - left edge)

  V lower, upper, length, inv_length, last;  // B_L, B_R, d, 1 / d, N - 1
  Table slope;                               // K of each segment
  Table value;  // Y at each segment's left edge; in the inference form O
  bool inference;

  // Eq. 2, extended to the outer regions as in section 4.3. The outer regions are decided by the
  // bounds themselves, so that rounding cannot move an x that lies on one. NaN lands in 0: it is
  // never converted to an integer, and makes the result NaN anyway.
  MMACT_HD V segment(V x) const {
    V k = S::floor(S::quotient(x - lower, length, inv_length));
    k = S::select(k > S::set(0), k, S::set(0));
    k = S::select(k < last, k, last);
    k = S::select(x < lower, S::set(-1), k);
    return S::select(x >= upper, last + S::set(1), k);
  }

  // Eq. 3; the outer regions are measured from B_L and B_R.
  MMACT_HD V left_edge(V k) const {
    const V inner = S::fma(S::select(k > S::set(0), k, S::set(0)), length, lower);
    return S::select(k > last, upper, inner);
  }

  MMACT_HD static I entry(V k) { return S::to_index(k + S::set(1)); }

  // Eq. 1; in the inference form x * S + O of section 4.3.
  template <class Index>
  MMACT_HD V forward(V x, const Index&) const {
    const V k = segment(x);
    const I i = entry(k);
    return S::fma(inference ? x : x - left_edge(k), slope.at(i), value.at(i));
  }

  // The gradient of x, and what the element adds to the sums of segment `bin`.
  MMACT_HD V backward(V x, V gy, I& bin, V (&terms)[kTerms]) const {
    const V k = segment(x);
    bin = entry(k);
    terms[0] = gy;
    terms[1] = gy * (x - left_edge(k));
    return gy * slope.at(bin);
  }
};

struct PwluSettings {
  static constexpr int kParameters = 5;  // B_L, B_R, K_L and K_R (G), Y_P (G, N + 1)
  static constexpr int kTerms = 2;
  static constexpr int kLeastLookups = 3;
  static constexpr bool kSlowSteps = false;
  // The table of a group: four scalars, the slopes of the N + 2 segments, and their values.
  static constexpr int kScalars = 4;

  int num_intervals;
  bool inference;

  MMACT_HD int segments() const { return num_intervals + 2; }
  MMACT_HD int rows() const { return kScalars + 2 * segments(); }
  MMACT_HD int backward_rows() const { return kScalars + segments(); }
  MMACT_HD int entries() const { return kTerms * segments(); }
  MMACT_HD int lookups() const { return segments(); }

  template <class Use>
  void with_formula(const Use& use) const {
    use(*this);
  }

  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    const auto slope = column.table(kScalars, segments());
    return Pwlu<S, std::decay_t<decltype(slope)>>{
        column.at(0),
        column.at(1),
        column.at(2),
        column.at(3),
        S::set(static_cast<typename S::Value>(num_intervals - 1)),
        slope,
        column.table(kScalars + segments(), segments()),
        inference};
  }

  // One group's parameters. In double: d and K are small differences of large numbers.
  struct Group {
    double left, right, left_slope, right_slope, width, d;
    Values points;
    int64_t first;  // point
    int n;
    bool inference;

    MMACT_HD double point(int k) const { return points.at(first + k); }
    MMACT_HD double number(int row) const {
      if (row < kScalars) return row == 0 ? left : row == 1 ? right : row == 2 ? d : 1 / d;
      row -= kScalars;
      const bool is_slope = row < n + 2;
      const int k = (is_slope ? row : row - n - 2) - 1;
      if (!is_slope && !inference) return point(k < 0 ? 0 : k);
      const double slope = k < 0 ? left_slope : k == n ? right_slope : steepness(k);
      if (is_slope) return slope;
      return point(k < 0 ? 0 : k) - (k < 0 ? left : k == n ? right : left + k * d) * slope;
    }
    MMACT_HD double steepness(int k) const { return (point(k + 1) - point(k)) / d; }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const {
    const double left = p[0].at(g), right = p[1].at(g);
    const bool crossed = right - left < kPwluMinWidth;  // so that a NaN bound stays NaN
    const double width = crossed ? kPwluMinWidth : right - left;
    return {left,          crossed ? left + kPwluMinWidth : right,
            p[2].at(g),    p[3].at(g),
            width,         width / num_intervals,
            p[4],          g * (num_intervals + 1),
            num_intervals, inference};
  }

  // Table 1 from s0(k) = sum of gy and s1(k) = sum of gy * (x - left edge) over the elements of
  // segment k. Every entry of Table 1 is linear in x, so that these two numbers are all it needs.
  template <class Sums>
  MMACT_HD void gradients(const Values* p, int64_t g, const Sums& sums, const Slots* out) const {
    const Group f = group(p, g);
    const int n = num_intervals;
    const auto s0 = [&](int k) { return sums(2 * (k + 1)); };
    const auto s1 = [&](int k) { return sums(2 * (k + 1) + 1); };
    double to_left = -f.left_slope * s0(-1), to_right = -f.right_slope * s0(n);
    double carried = s0(-1);  // what the segment before adds to its right point
    for (int k = 0; k < n; ++k) {
      const double steepness = f.steepness(k), share = s1(k) / f.d;
      // K (x - B_R) / (B_R - B_L) and K (B_L - x) / (B_R - B_L), summed over the segment.
      to_left += steepness * (share + (k - n) * s0(k)) / n;
      to_right -= steepness * (share + k * s0(k)) / n;
      out[4].put(f.first + k, carried + s0(k) - share);
      carried = share;
    }
    out[4].put(f.first + n, carried + s0(n));
    out[0].put(g, to_left);
    out[1].put(g, to_right);
    out[2].put(g, s1(-1));
    out[3].put(g, s1(n));
  }
};

}  // namespace mmact
