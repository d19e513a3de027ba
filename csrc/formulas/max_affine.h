// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The largest of K linear functions: Dynamic ReLU (Chen et al., ECCV 2020, Eq. 1).
#pragma once

#include "formula.h"

namespace mmact {

constexpr int kMaxFunctions = 16;  // K, if it is known only at run time

// The numbers of a channel of a sample: K slopes, then K intercepts; the sums of its backward are
// in the same order. kCount is K, or 0 if K is known only at run time.
template <class S, int kCount, class Rows>
struct MaxAffine {
  using V = typename S::V;

  static constexpr int kSums = 2 * (kCount > 0 ? kCount : kMaxFunctions);

  Rows rows;
  int count_;

  MMACT_HD int count() const { return kCount > 0 ? kCount : count_; }

  // The largest value, and the number of the function that it is of: the last one where several
  // meet. NaN is larger than anything.
  MMACT_HD V evaluate(V x, V& which) const {
    const int n = count();
    V best = S::fma(x, rows.at(0), rows.at(n));
    which = S::set(0);
    for (int k = 1; k < n; ++k) {
      const V value = S::fma(x, rows.at(k), rows.at(n + k));
      const auto taken = (value >= best) | (value != value);
      best = S::select(taken, value, best);
      which = S::select(taken, S::set(k), which);
    }
    return best;
  }

  // The gradient of x. `gy` is that of the largest value, `which` from evaluate().
  MMACT_HD V backward(V x, V gy, V which, V (&sums)[kSums]) const {
    const int n = count();
    V slope = rows.at(0);
    for (int k = 0; k < n; ++k) {
      const auto here = which == S::set(k);
      slope = S::select(here, rows.at(k), slope);
      sums[k] = S::select(here, S::fma(gy, x, sums[k]), sums[k]);
      sums[n + k] = S::select(here, sums[n + k] + gy, sums[n + k]);
    }
    return gy * slope;
  }
};

}  // namespace mmact
