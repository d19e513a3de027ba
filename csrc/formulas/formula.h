// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// A formula's settings hold what all groups of channels have in common. They give, in plain C++ for
// both devices (PiecewiseLinearSettings is the shortest example):
//
// - kParameters, the number of parameters, each a matrix with a row per group;
// - group(parameters, g).number(row): the table that kernels read, rows() numbers per group, of
//   which backward reads the first backward_rows();
// - with_formula(use): calls use(formula), whose load<S>(column) gives the function of a channel on
//   the number system S, from its column of the table;
// - entries(): how many sums backward leaves per group. With kTerms > 0 they are kTerms sums for
//   each of several bins, and an element adds to one bin; else every element adds to all of them;
// - gradients(parameters, g, sums, gradients): from these sums to the parameters' gradients;
// - lookups(), the size of the tables that are looked up by index, and kLeastLookups, the least
//   that it can be: 0 if there are none;
// - kSlowSteps: the formula's steps wait for each other, so that a CPU had better work on two
//   vectors at a time.
#pragma once

#include <limits>

#include "storage.h"

namespace mmact {

// A copy of the first kCount numbers of a channel, for kernels that can hold them in registers.
template <class V, int kCount>
struct LocalRows {
  V rows[kCount];

  template <class Rows>
  MMACT_HD static LocalRows load(const Rows& from) {
    LocalRows local;
    for (int row = 0; row < kCount; ++row) local.rows[row] = from.at(row);
    return local;
  }
  MMACT_HD const V& at(int row) const { return rows[row]; }
};

// v, or the finite number nearest to it: 0 * infinity has no place in products that go to 0.
template <class S>
MMACT_HD inline typename S::V bounded(typename S::V v) {
  const typename S::V largest = S::set(std::numeric_limits<typename S::Value>::max());
  return S::at_least(S::at_most(v, largest), -largest);
}

}  // namespace mmact
