// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The Piecewise Linear Unit of Zhou et al., ICCV 2021: Eq. 1 to 4, Table 1 and section 4.3.
//
// A formula is written once, on a number system S: one float or double of a CUDA thread, or a SIMD
// vector of them on a CPU (Scalar in cuda/scalar.h, Simd in cpu/simd_*.h). The N intervals and the
// two outer regions are segments -1, 0, ..., N, stored from 0: segment k is entry k + 1 of a table.
#pragma once

#include "macros.h"

namespace mmact {

// Smallest effective width B_R - B_L; PWLU_MIN_WIDTH of mmact/ops/reference.py.
constexpr double kPwluMinWidth = 1e-6;

// What the kernels read; made from the parameters by pwlu_make_table.
template <class T>
struct PwluTable {
  const T *lower, *upper, *length, *inv_length;  // B_L, B_R, d, 1 / d; (channels)
  const T* slope;                                // K of each segment
  const T* value;  // Y at each segment's left edge; in the inference form O
  int num_intervals;
  int64_t channel_stride, segment_stride;  // of slope and value
};

// The function of one channel (or of one channel per lane, if Table looks up lane by lane).
template <class S, class Table>
struct Pwlu {
  using V = typename S::V;
  using I = typename S::I;

  static constexpr int kTerms = 2;  // sums per segment: of gy, and of gy * (x - left edge)

  V lower, upper, length, inv_length, last;
  Table slope, value;

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

  // Eq. 1.
  MMACT_HD V forward(V x) const {
    const V k = segment(x);
    const I i = entry(k);
    return S::fma(x - left_edge(k), slope.at(i), value.at(i));
  }

  // Section 4.3: x * S + O.
  MMACT_HD V inference(V x) const {
    const I i = entry(segment(x));
    return S::fma(x, slope.at(i), value.at(i));
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

// Fills the table entries of one channel. Arithmetic is in double whatever T is: this is done once
// per channel, and d and K are small differences of large numbers.
template <class P, class T>
MMACT_HD inline void pwlu_make_table(double left, double right, double left_slope,
                                     double right_slope, const P* points, int n, bool inference,
                                     T* lower, T* upper, T* length, T* inv_length, T* slope,
                                     T* value, int64_t segment_stride) {
  // Written so that a NaN bound stays NaN.
  const bool crossed = right - left < kPwluMinWidth;
  const double width = crossed ? kPwluMinWidth : right - left;
  const double end = crossed ? left + kPwluMinWidth : right;
  const double d = width / n;
  *lower = static_cast<T>(left);
  *upper = static_cast<T>(end);
  *length = static_cast<T>(d);
  *inv_length = static_cast<T>(1 / d);
  for (int k = -1; k <= n; ++k) {
    const double y = points[k < 0 ? 0 : k];
    double edge = left, steepness = left_slope;
    if (k >= 0 && k < n) {
      edge = left + k * d;
      steepness = (static_cast<double>(points[k + 1]) - y) / d;
    } else if (k == n) {
      edge = end;
      steepness = right_slope;
    }
    slope[(k + 1) * segment_stride] = static_cast<T>(steepness);
    value[(k + 1) * segment_stride] = static_cast<T>(inference ? y - edge * steepness : y);
  }
}

// Table 1 from the sums of one channel: s0(k) = sum of gy and s1(k) = sum of gy * (x - left edge)
// over the elements of segment k, entry k + 1 of sums. Every entry of Table 1 is linear in x, so
// that these two numbers per segment are all it needs.
template <class P, class G>
MMACT_HD inline void pwlu_gradients(const double* sums, int64_t stride, double left, double right,
                                    double left_slope, double right_slope, const P* points, int n,
                                    G* g_left, G* g_right, G* g_left_slope, G* g_right_slope,
                                    G* g_points) {
  const double width = right - left < kPwluMinWidth ? kPwluMinWidth : right - left;
  const double d = width / n;
  const auto s0 = [&](int k) { return sums[2 * (k + 1) * stride]; };
  const auto s1 = [&](int k) { return sums[(2 * (k + 1) + 1) * stride]; };
  *g_left_slope = static_cast<G>(s1(-1));
  *g_right_slope = static_cast<G>(s1(n));
  double to_left = -left_slope * s0(-1), to_right = -right_slope * s0(n);
  double carried = s0(-1);  // what the segment before adds to its right point
  for (int k = 0; k < n; ++k) {
    const double steepness = (static_cast<double>(points[k + 1]) - points[k]) / d;
    const double share = s1(k) / d;
    // K (x - B_R) / (B_R - B_L) and K (B_L - x) / (B_R - B_L), summed over the segment.
    to_left += steepness * (share + (k - n) * s0(k)) / n;
    to_right -= steepness * (share + k * s0(k)) / n;
    g_points[k] = static_cast<G>(carried + s0(k) - share);
    carried = share;
  }
  g_points[n] = static_cast<G>(carried + s0(n));
  *g_left = static_cast<G>(to_left);
  *g_right = static_cast<G>(to_right);
}

}  // namespace mmact
