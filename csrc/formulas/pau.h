// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The Padé Activation Unit of Molina et al., ICLR 2020: Eq. 2 and 3, section 2.2.
//
// F = P(x) / Q(x), with P = a_0 + ... + a_m x^m, A = b_0 + ... + b_n u^n and Q = constant + |A|.
// The other denominators in use are this one with other settings; see PauForm.
#pragma once

#include "formula.h"

namespace mmact {

constexpr int kPauMaxOrder = 32;  // entries of the numerator, and of b_1 to b_n
constexpr int kPauMaxRows = 2 * kPauMaxOrder + 1;

// The part of the settings that every element needs.
struct PauForm {
  int m, n;
  double constant;  // 0.1 in version C, else 1
  bool abs_x;       // version A: u = |x|, and the b are magnitudes; else u = x
  bool abs_a;       // versions B and C; else Q = constant + A
  double limit;     // |x| up to which powers of x cannot overflow
  double noise;     // alpha of Eq. 3
  uint32_t seed_low, seed_high;
};

// The noise of the elements with one key each.
template <class S>
struct PauNoise {
  using V = typename S::V;
  using U = typename S::U;

  // A bijection of 32-bit numbers whose output looks random.
  MMACT_HD static U mix(U h) {
    h = ((h ^ (h >> 16)) * 0x7feb352du) & 0xffffffffu;
    h = ((h ^ (h >> 15)) * 0x846ca68bu) & 0xffffffffu;
    return h ^ (h >> 16);
  }
  // By how much it multiplies a coefficient.
  MMACT_HD static V factor(const PauForm& form, int row, U key) {
    const uint32_t of_row = form.seed_high + static_cast<uint32_t>(row) * 0x9e3779b9u;
    const V uniform = S::from_bits(mix(key ^ of_row) >> 8);  // [0, 2^24)
    return S::fma(uniform, S::set(form.noise / 8388608), S::set(1 - form.noise));
  }
};

// One element whose powers overflow, in double: with z = 1 / x, P = x^top p(z) and A = x^bottom
// a(z), where top and bottom are the highest powers with a coefficient that is not 0, Q is x^bottom
// (constant z^bottom + |a|) up to signs. Such x are rare. p and a are finite and not 0 at infinity,
// where everything else is a limit.
//
// It reads coefficients from the table whenever it needs them: an array of them would be memory
// that every thread of a GPU has to have.
template <class S, bool kNoise, class Table>
struct PauFar {
  PauForm settings;
  Table table;  // a_j at j, b_k at m + 1 + k
  typename S::U key;
  int lane;
  double x, z, scale, sign, p, slope;
  int top, bottom;

  MMACT_COLD double coefficient(int row) const {
    auto value = table.at(row);
    if constexpr (kNoise) value = value * PauNoise<S>::factor(settings, row, key);
    return S::get(value, lane);
  }
  MMACT_COLD double b(int k) const { return coefficient(settings.m + 1 + k); }

  // To be called when settings, table, key, lane and x are set.
  MMACT_COLD void prepare() {
    z = 1 / x;
    for (top = settings.m; top > 0 && coefficient(top) == 0;) --top;
    for (bottom = settings.n; bottom > 0 && b(bottom) == 0;) --bottom;
    const double t = settings.abs_x && z < 0 ? -z : z;
    double a = 0, unit = settings.constant, logarithmic = 0;  // x A' = x^bottom logarithmic
    for (int k = 0; k <= bottom; ++k) {
      const double c = b(k);
      a = a * t + c;
      logarithmic = logarithmic * t + k * c;
    }
    for (int k = 0; k < bottom; ++k) unit *= t;
    const double odd = bottom % 2 == 1 && x < 0 ? -1 : 1;  // x^bottom / |x|^bottom
    if (settings.abs_a) {
      sign = a * odd >= 0 ? 1 : -1;
      scale = odd / ((unit < 0 ? -unit : unit) + (a < 0 ? -a : a));
    } else {
      sign = 1;
      scale = (settings.abs_x ? odd : 1) / (unit + a);
    }
    p = 0;
    double derived = 0;  // x P' = x^top derived
    for (int j = 0; j <= top; ++j) {
      const double c = coefficient(j);
      p = p * z + c;
      derived = derived * z + j * c;
    }
    // x Q' / Q; |x|^bottom and x^bottom differ by odd where the b multiply powers of |x|.
    const double ratio = sign * logarithmic * scale * (settings.abs_x ? odd : 1);
    slope = derived - p * ratio;
  }
  // value * x^exponent.
  MMACT_COLD double times_power(double value, int exponent) const {
    for (; exponent < 0; ++exponent) value *= z;
    for (; exponent > 0; --exponent) value *= x;
    return value;
  }
  // F.
  MMACT_COLD double value() const { return times_power(p * scale, top - bottom); }
  // dF/dx.
  MMACT_COLD double derivative() const {
    return slope == 0 ? 0 : times_power(slope * scale, top - bottom - 1);
  }
  // dF/da_j = x^j / Q.
  MMACT_COLD double by_numerator(int j) const { return times_power(scale, j - bottom); }
  // dF/db_k.
  MMACT_COLD double by_denominator(int k) const {
    const double term = settings.abs_x && x < 0 && k % 2 == 1 ? -sign : sign;
    return -term * times_power(p * scale * scale, top + k - 2 * bottom);
  }
};

// kM and kN are the orders, or -1 if they are known only at run time. The numbers of a channel: a_0
// to a_m, b_0 to b_n, in `rows`, and in `table` for what is rare. `index` numbers the elements of
// the tensor, for the noise.
template <class S, int kM, int kN, bool kNoise, class Rows, class Table>
struct Pau {
  using V = typename S::V;
  using U = typename S::U;

  static constexpr int kSums =
      kM >= 0 ? kM + kN + 2 : kPauMaxRows;  // as many as rows, of which m + n + 2 are used

  PauForm settings;
  Rows rows;
  Table table;

  MMACT_HD int m() const { return kM >= 0 ? kM : settings.m; }
  MMACT_HD int n() const { return kN >= 0 ? kN : settings.n; }

  MMACT_HD U element_key(U index) const {
    if constexpr (!kNoise) return index;
    return PauNoise<S>::mix((index + settings.seed_low) & 0xffffffffu);
  }
  MMACT_HD V factor(int row, U key) const { return PauNoise<S>::factor(settings, row, key); }
  MMACT_HD V coefficient(int row, U key) const {
    if constexpr (kNoise) return rows.at(row) * factor(row, key);
    return rows.at(row);
  }

  MMACT_HD V variable(V x) const { return settings.abs_x ? S::abs(x) : x; }
  MMACT_HD V magnitude(V a) const {
    return S::set(settings.constant) + (settings.abs_a ? S::abs(a) : a);
  }

  MMACT_HD V forward(V x, U index) const {
    const auto far = S::abs(x) > S::set(settings.limit);
    const U key = element_key(index);
    const V u = variable(x);
    V p = coefficient(m(), key), a = coefficient(m() + 1 + n(), key);
    for (int j = m() - 1; j >= 0; --j) p = S::fma(p, x, coefficient(j, key));
    for (int k = n() - 1; k >= 0; --k) a = S::fma(a, u, coefficient(m() + 1 + k, key));
    V y = p / magnitude(a);
    if (__builtin_expect(S::any(far), false)) {
      for (int lane = 0; lane < S::kWidth; ++lane)
        if (is_far(x, lane)) S::put(y, lane, far_element(x, key, lane).value());
    }
    return y;
  }

  // The gradient of x; adds the element's part of the gradients of the coefficients to `sums`.
  MMACT_HD V backward(V x, V gy, U index, V (&sums)[kSums]) const {
    const U key = element_key(index);
    const auto far = S::abs(x) > S::set(settings.limit);
    const V given_x = x, given_gy = gy;
    const bool any_far = __builtin_expect(S::any(far), false);
    if (any_far) {
      x = S::select(far, S::set(0), x);
      gy = S::select(far, S::set(0), gy);
    }
    const V u = variable(x);
    V p = coefficient(m(), key), dp = S::set(0);
    for (int j = m() - 1; j >= 0; --j) {
      dp = S::fma(dp, x, p);
      p = S::fma(p, x, coefficient(j, key));
    }
    V a = coefficient(m() + 1 + n(), key), da = S::set(0);
    for (int k = n() - 1; k >= 0; --k) {
      da = S::fma(da, u, a);
      a = S::fma(a, u, coefficient(m() + 1 + k, key));
    }
    // sign(0) = +1, or denominators that start at 0 would never learn.
    const V one = S::set(1);
    const V sign = settings.abs_a ? S::select(a >= S::set(0), one, -one) : one;
    const V inverse = one / magnitude(a);
    const V w = gy * inverse, y = p * inverse;
    const V minus_wf = -w * y * sign;
    if (settings.abs_x) da = S::select(x >= S::set(0), da, -da);
    V gx = S::fma(w, dp, minus_wf * da);
    V term = w;
    for (int j = 0; j <= m(); ++j) {
      add(sums[j], term, j, key);
      term = term * x;
    }
    term = minus_wf;
    for (int k = 0; k <= n(); ++k) {
      add(sums[m() + 1 + k], term, m() + 1 + k, key);
      term = term * u;
    }
    if (any_far) {
      for (int lane = 0; lane < S::kWidth; ++lane) {
        if (!is_far(given_x, lane)) continue;
        const auto f = far_element(given_x, key, lane);
        const double g = S::get(given_gy, lane);
        S::put(gx, lane, g * f.derivative());
        for (int j = 0; j <= m(); ++j) add_far(sums[j], lane, g * f.by_numerator(j), j, key);
        for (int k = 0; k <= n(); ++k)
          add_far(sums[m() + 1 + k], lane, g * f.by_denominator(k), m() + 1 + k, key);
      }
    }
    return gx;
  }

 private:
  MMACT_HD void add(V& sum, V term, int row, U key) const {
    if constexpr (kNoise)
      sum = S::fma(term, factor(row, key), sum);
    else
      sum = sum + term;
  }
  MMACT_HD void add_far(V& sum, int lane, double term, int row, U key) const {
    if constexpr (kNoise) term *= S::get(factor(row, key), lane);
    S::put(sum, lane, S::get(sum, lane) + term);
  }
  MMACT_HD bool is_far(V x, int lane) const {
    const double value = S::get(x, lane);
    return value > settings.limit || value < -settings.limit;
  }
  MMACT_HD auto far_element(V x, U key, int lane) const {
    PauFar<S, kNoise, Table> far{settings, table, key, lane, S::get(x, lane)};
    far.prepare();
    return far;
  }
};

// Without noise, the coefficients of the usual orders (5, 4) stay in registers.
template <bool kUsual, bool kNoise>
struct PauFormula {
  PauForm form;
  const int64_t* seed;  // of the noise, on the device

  template <class S, class Column>
  MMACT_HD auto load(const Column& column) const {
    PauForm mine = form;
    if constexpr (kNoise) {
      const auto bits = static_cast<uint64_t>(*seed);
      mine.seed_low = static_cast<uint32_t>(bits);
      mine.seed_high = static_cast<uint32_t>(bits >> 32);
    }
    if constexpr (kUsual) {
      using Local = LocalRows<typename S::V, 5 + 4 + 2>;
      return Pau<S, 5, 4, kNoise, Local, Column>{mine, Local::load(column), column};
    } else {
      return Pau<S, -1, -1, kNoise, Column, Column>{mine, column, column};
    }
  }
};

struct PauSettings {
  static constexpr int kParameters = 2;  // the numerator's coefficients, and the denominator's
  static constexpr int kTerms = 0;
  static constexpr int kLeastLookups = 0;
  static constexpr bool kSlowSteps = false;

  PauForm form;
  const int64_t* seed;
  bool has_b0;  // version C: the denominator begins with b_0, else b_0 = 0

  MMACT_HD int rows() const { return form.m + form.n + 2; }
  MMACT_HD int backward_rows() const { return rows(); }
  MMACT_HD int entries() const { return rows(); }
  MMACT_HD int lookups() const { return 0; }

  template <class Use>
  void with_formula(const Use& use) const {
    if (form.noise != 0)
      use(PauFormula<false, true>{form, seed});
    else if (form.m == 5 && form.n == 4)
      use(PauFormula<true, false>{form, nullptr});
    else
      use(PauFormula<false, false>{form, nullptr});
  }

  struct Group {
    const Values *a, *b;
    int64_t first_a, first_b;  // where a_0 is, and where b_0 is or would be
    int first_row;             // of the denominator
    bool has_b0, magnitudes;

    MMACT_HD double number(int row) const {
      if (row < first_row) return a->at(first_a + row);
      if (row == first_row && !has_b0) return 0;
      const double value = b->at(first_b + row - first_row);
      return magnitudes && value < 0 ? -value : value;
    }
  };
  MMACT_HD Group group(const Values* p, int64_t g) const {
    const int64_t size = has_b0 ? form.n + 1 : form.n;
    return {p,          p + 1,  g * (form.m + 1), g * size - (has_b0 ? 0 : 1),
            form.m + 1, has_b0, form.abs_x};
  }

  template <class Sums>
  MMACT_HD void gradients(const Values* p, int64_t g, const Sums& sums, const Slots* out) const {
    const Group f = group(p, g);
    for (int j = 0; j <= form.m; ++j) out[0].put(f.first_a + j, sums(j));
    for (int k = has_b0 ? 0 : 1; k <= form.n; ++k) {
      const double sum = sums(form.m + 1 + k);  // for the magnitude in version A; sign(0) = +1
      const bool negative = form.abs_x && p[1].at(f.first_b + k) < 0;
      out[1].put(f.first_b + k, negative ? -sum : sum);
    }
  }
};

}  // namespace mmact
