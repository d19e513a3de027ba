// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The number system of one CUDA thread, for formulas and engine: one float or one double. What
// Simd<T> in cpu/simd.h is to a CPU, Scalar<T> is to a GPU.
#pragma once

#include <cmath>

#include "../formulas/macros.h"

namespace mmact {
namespace cuda {

template <class T>
struct Math;

template <>
struct Math<float> {
  __device__ static float expm1_ratio(float v) { return v == 0 ? 1 : ::expm1f(v) / v; }
  __device__ static float log1p_ratio(float v) { return v == 0 ? 1 : ::log1pf(v) / v; }
  __device__ static float exp_negative(float v) { return ::expf(v); }
  __device__ static float normal_pdf(float v) { return 0.398942280f * ::expf(-0.5f * v * v); }
  __device__ static float normal_cdf(float v) { return ::normcdff(v); }
};

template <>
struct Math<double> {
  __device__ static double expm1_ratio(double v) { return v == 0 ? 1 : ::expm1(v) / v; }
  __device__ static double log1p_ratio(double v) { return v == 0 ? 1 : ::log1p(v) / v; }
  __device__ static double exp_negative(double v) { return ::exp(v); }
  __device__ static double normal_pdf(double v) {
    return 0.3989422804014326779 * ::exp(-0.5 * v * v);
  }
  __device__ static double normal_cdf(double v) { return ::normcdf(v); }
};

template <class T>
struct ScalarBase {
  using Value = T;
  using Math = cuda::Math<T>;
  using V = T;
  using I = int;
  using U = uint32_t;
  static constexpr int kWidth = 1;

  MMACT_HD static V set(T value) { return value; }
  MMACT_HD static V select(bool mask, V yes, V no) { return mask ? yes : no; }
  MMACT_HD static V from_bits(U bits) { return static_cast<V>(bits); }
  MMACT_HD static V abs(V v) { return v < 0 ? -v : v; }
  MMACT_HD static bool any(bool mask) { return mask; }
  MMACT_HD static I increment_where(I to, bool mask) { return to + mask; }
  MMACT_HD static I select_index(bool mask, I yes, I no) { return mask ? yes : no; }
  MMACT_HD static V at_least(V v, V bound) { return v < bound ? bound : v; }  // NaN stays
  MMACT_HD static V at_most(V v, V bound) { return v > bound ? bound : v; }
  MMACT_HD static V divide(V a, V b) { return a / b; }
  MMACT_HD static double get(V v, int) { return v; }
  MMACT_HD static void put(V& v, int, double value) { v = static_cast<V>(value); }
  // v must be in the range of int and not NaN; formulas clip before they convert.
  MMACT_HD static I to_index(V v) { return static_cast<I>(v); }
};

template <class T>
struct Scalar;

template <>
struct Scalar<float> : ScalarBase<float> {
  MMACT_HD static V fma(V a, V b, V c) { return ::fmaf(a, b, c); }
  // a / b, given r = 1 / b: one step of Newton's iteration rounds the quotient correctly.
  MMACT_HD static V quotient(V a, V b, V r) {
    const V q = a * r;
    return fma(fma(-q, b, a), r, q);
  }
  MMACT_HD static V floor(V v) { return ::floorf(v); }
};

template <>
struct Scalar<double> : ScalarBase<double> {
  MMACT_HD static V fma(V a, V b, V c) { return ::fma(a, b, c); }
  MMACT_HD static V quotient(V a, V b, V) { return a / b; }
  MMACT_HD static V floor(V v) { return ::floor(v); }
};

}  // namespace cuda
}  // namespace mmact
