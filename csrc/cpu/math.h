// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Transcendental functions of vectors. How far each polynomial is from its function is said beside
// it; the rest is rounding, which in exp(-x^2 / 2) grows with the square of x.
#pragma once

#include "simd.h"

namespace mmact {
namespace MMACT_ISA {

template <>
struct Math<float> {
  using S = Simd<float>;
  using V = S::V;
  using I = S::I;

  // (n, r) with v = n log(2) + r and abs(r) <= log(2) / 2. r is off by 2e-9 n: a float holds log(2)
  // to that.
  MMACT_HD static V reduce(V v, V& r) {
    const V n = S::floor(S::fma(v, S::set(1.44269504f), S::set(0.5f)));
    r = S::fma(n, S::set(-0.693147181f), v);
    return n;
  }
  // (exp(r) - 1) / r by a polynomial that fits within 1.4e-8; fitted by us, as are those below.
  MMACT_HD static V small_expm1_ratio(V r) {
    V sum = S::set(0.0013882507f);
    sum = S::fma(sum, r, S::set(0.0083665960f));
    sum = S::fma(sum, r, S::set(0.0416672006f));
    sum = S::fma(sum, r, S::set(0.1666654348f));
    sum = S::fma(sum, r, S::set(0.5f));
    return S::fma(sum, r, S::set(1));
  }

  // expm1(v) / v, for v in [-80, 80].
  MMACT_HD static V expm1_ratio(V v) {
    V r;
    const V n = reduce(v, r), near = small_expm1_ratio(r), power = S::scale(S::set(1), n);
    const V far = S::divide(S::fma(power, r * near, power - S::set(1)), v);
    return S::select(n == S::set(0), near, far);
  }

  // log1p(v) / v, for v >= 0.
  MMACT_HD static V log1p_ratio(V v) {
    constexpr int32_t kSqrtHalf = 0x3f3504f3;
    const V u = v + S::set(1);
    const I exponent = (reinterpret_cast<I>(u) - kSqrtHalf) >> 23;
    const V mantissa = reinterpret_cast<V>(reinterpret_cast<I>(u) - (exponent << 23));
    const auto near = exponent == 0;  // v < sqrt(2) - 1
    const V f = S::select(near, v, mantissa - S::set(1));
    // log1p(f) / f within 3e-8.
    V sum = S::set(0.0873377994f);
    sum = S::fma(sum, f, S::set(-0.143087044f));
    sum = S::fma(sum, f, S::set(0.149187982f));
    sum = S::fma(sum, f, S::set(-0.165703997f));
    sum = S::fma(sum, f, S::set(0.199619934f));
    sum = S::fma(sum, f, S::set(-0.250017583f));
    sum = S::fma(sum, f, S::set(0.333339512f));
    sum = S::fma(sum, f, S::set(-0.5f));
    sum = S::fma(sum, f, S::set(1));
    const V powers = __builtin_convertvector(exponent, V);
    const V far = S::divide(S::fma(powers, S::set(0.693147181f), f * sum), v);
    return S::select(near, sum, far);
  }

  // exp(v), for v up to 0.
  MMACT_HD static V exp_negative(V v) {
    V r;
    const V n = reduce(S::at_least(v, S::set(-200)), r);
    return S::scale(S::fma(r, small_expm1_ratio(r), S::set(1)), n);
  }
  // exp(-v^2 / 2).
  MMACT_HD static V bell(V v) { return exp_negative(S::set(-0.5f) * v * v); }
  MMACT_HD static V normal_pdf(V v) { return S::set(0.398942280f) * bell(v); }
  // The upper tail is bell(v) times a function that a polynomial in 1 / (1 + 0.35 v) fits within
  // 3.2e-8 of it, for v from 0 to 14.
  MMACT_HD static V normal_cdf(V v) {
    const V t = S::set(1) / S::fma(S::abs(v), S::set(0.35f), S::set(1));
    V sum = S::set(-0.029146067570363823f);
    sum = S::fma(sum, t, S::set(0.1439723517497681f));
    sum = S::fma(sum, t, S::set(-0.25571557146464685f));
    sum = S::fma(sum, t, S::set(0.15917561972866373f));
    sum = S::fma(sum, t, S::set(-0.023110803861309124f));
    sum = S::fma(sum, t, S::set(0.1055083966815802f));
    sum = S::fma(sum, t, S::set(0.11983277320533596f));
    sum = S::fma(sum, t, S::set(0.13986188194348545f));
    sum = S::fma(sum, t, S::set(0.13962140364054262f));
    const V tail = bell(v) * sum * t;
    return S::select(v < S::set(0), tail, S::set(1) - tail);
  }
};

// double is for checking gradients: the C library, lane by lane.
template <>
struct Math<double> {
  using S = Simd<double>;
  using V = S::V;

  template <class F>
  MMACT_HD static V each(V v, F f) {
    for (int lane = 0; lane < S::kWidth; ++lane) v[lane] = f(v[lane]);
    return v;
  }
  MMACT_HD static V expm1_ratio(V v) {
    return each(v, [](double a) MMACT_LAMBDA { return a == 0 ? 1.0 : __builtin_expm1(a) / a; });
  }
  MMACT_HD static V log1p_ratio(V v) {
    return each(v, [](double a) MMACT_LAMBDA { return a == 0 ? 1.0 : __builtin_log1p(a) / a; });
  }
  MMACT_HD static V exp_negative(V v) {
    return each(v, [](double a) MMACT_LAMBDA { return __builtin_exp(a); });
  }
  MMACT_HD static V normal_pdf(V v) {
    return each(v, [](double a) MMACT_LAMBDA {
      return 0.3989422804014326779 * __builtin_exp(-0.5 * a * a);
    });
  }
  MMACT_HD static V normal_cdf(V v) {
    return each(
        v, [](double a) MMACT_LAMBDA { return 0.5 * __builtin_erfc(-0.70710678118654752440 * a); });
  }
};

}  // namespace MMACT_ISA
}  // namespace mmact
