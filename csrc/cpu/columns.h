// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Forward where neighbours in memory belong to different channels, for formulas that look numbers
// up: in a tile that is turned round, a vector has one channel, whose table is in registers. That
// is quicker than a gather from as many tables as there are lanes.
#pragma once

#include "bins.h"
#include "twice.h"

namespace mmact {
namespace MMACT_ISA {

// Row r's lane c becomes row c's lane r.
template <class S>
MMACT_HD inline void transpose(typename S::V (&rows)[S::kWidth]) {
  constexpr int kHalf = S::kWidth / 2;
  MMACT_UNROLL
  for (int done = 1; done < S::kWidth; done *= 2) {
    typename S::V next[S::kWidth];
    MMACT_UNROLL
    for (int k = 0; k < kHalf; ++k) {
      next[2 * k] = rows[k];
      next[2 * k + 1] = rows[k + kHalf];
      S::interleave(next[2 * k], next[2 * k + 1]);
    }
    MMACT_UNROLL
    for (int k = 0; k < S::kWidth; ++k) rows[k] = next[k];
  }
}

// Brings `count` rows, `step` apart, to a column for each lane, kColumn apart. Rows behind the last
// are not read, and are 0 in the columns.
template <class S, int kColumn>
MMACT_HD inline void to_columns(const typename S::Value* from, int64_t step, int64_t count,
                                typename S::Value* to) {
  for (int64_t row = 0; row < count; row += S::kWidth) {
    typename S::V square[S::kWidth];
    MMACT_UNROLL
    for (int k = 0; k < S::kWidth; ++k)
      square[k] = row + k < count ? S::load(from + (row + k) * step) : S::set(0);
    transpose<S>(square);
    MMACT_UNROLL
    for (int k = 0; k < S::kWidth; ++k) S::store(to + k * kColumn + row, square[k]);
  }
}
template <class S, int kColumn>
MMACT_HD inline void from_columns(const typename S::Value* from, int64_t step, int64_t count,
                                  typename S::Value* to) {
  for (int64_t row = 0; row < count; row += S::kWidth) {
    typename S::V square[S::kWidth];
    MMACT_UNROLL
    for (int k = 0; k < S::kWidth; ++k) square[k] = S::load(from + k * kColumn + row);
    transpose<S>(square);
    MMACT_UNROLL
    for (int k = 0; k < S::kWidth; ++k)
      if (row + k < count) S::store(to + (row + k) * step, square[k]);
  }
}

}  // namespace MMACT_ISA
}  // namespace mmact
