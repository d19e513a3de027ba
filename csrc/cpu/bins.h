// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Sums of a tile's terms by bin: those of a table's segments.
#pragma once

#include "tiles.h"

namespace mmact {
namespace MMACT_ISA {

// Adds a vector of sums to a tile's partial sums: entry e of channel c is at e * stride + c.
template <class T, bool kLanes>
struct Flush {
  double* sums;
  int64_t stride;

  // The partial sums of `chunk`, from `channel` on.
  MMACT_HD static Flush to(const Task& task, int64_t chunk, int64_t channel, int64_t entries) {
    return {task.sums + chunk * entries * task.channel_stride + channel, task.channel_stride};
  }
  MMACT_HD void operator()(int64_t entry, typename Simd<T>::V v) const {
    double* const to = sums + entry * stride;
    if constexpr (kLanes)
      for (int lane = 0; lane < Simd<T>::kWidth; ++lane) to[lane] += v[lane];
    else
      *to += Simd<T>::sum(v);
  }
};

// Adds to kBins bins, starting with `first`, the terms of the elements that belong to them. The
// accumulators stay in registers: a masked addition per bin and term is quicker than one gather and
// one scatter per element.
template <class T, int kTerms, int kBins, class Flush>
MMACT_HD inline void add_bins(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                              int64_t size, int first, Flush flush) {
  using S = Simd<T>;
  typename S::V sums[kBins][kTerms];
#pragma GCC unroll 8
  for (int b = 0; b < kBins; ++b)
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) sums[b][t] = S::set(0);
  for (int64_t i = 0; i < size; i += S::kWidth) {
    typename S::I bin;
    __builtin_memcpy(&bin, bins + i, sizeof(bin));
    typename S::V term[kTerms];
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) term[t] = S::load(terms[t] + i);
#pragma GCC unroll 8
    for (int b = 0; b < kBins; ++b) {
      const auto here = S::equal(bin, first + b);
#pragma GCC unroll 4
      for (int t = 0; t < kTerms; ++t) sums[b][t] = S::add_where(sums[b][t], here, term[t]);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBins; ++b)
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) flush((first + b) * kTerms + t, sums[b][t]);
}

// Bins up to which masked additions are the quicker way: AVX-512 has them in one instruction.
constexpr int kMaskedBins = MMACT_ISA_LEVEL == 2 ? 24 : 6;

// The same for many bins, `count` <= kScattered of them: every lane has accumulators of its own in
// L1. If these are not all bins there are, what belongs to no bin of these is added to one that
// nobody reads.
constexpr int kScattered = 64;

template <class T, int kTerms, bool kAll, class Flush>
MMACT_HD inline void scatter_bins(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                                  int64_t size, int first, int count, Flush flush) {
  using S = Simd<T>;
  constexpr int kWidth = S::kWidth;
  alignas(64) T sums[kScattered + 1][kTerms][kWidth];
  __builtin_memset(sums, 0, sizeof(sums[0]) * (count + 1));
  for (int64_t i = 0; i < size; i += kWidth)
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      auto bin = bins[i + lane] - first;
      if constexpr (!kAll) bin = 0 <= bin && bin < count ? bin : count;
#pragma GCC unroll 4
      for (int t = 0; t < kTerms; ++t) sums[bin][t][lane] += terms[t][i + lane];
    }
  for (int b = 0; b < count; ++b)
    for (int t = 0; t < kTerms; ++t) flush((first + b) * kTerms + t, S::load(sums[b][t]));
}

// Adds the terms of every element to the sums of its bin.
template <class T, int kTerms, class Flush>
MMACT_HD inline void sum_by_bin(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                                int64_t size, int num_bins, Flush flush) {
  int first = 0;
  if (kMaskedBins < num_bins && num_bins <= kScattered) {
    scatter_bins<T, kTerms, true>(bins, terms, size, 0, num_bins, flush);
    first = num_bins;
  }
  for (; num_bins - first > kMaskedBins; first += kScattered) {
    const int count = num_bins - first < kScattered ? num_bins - first : kScattered;
    scatter_bins<T, kTerms, false>(bins, terms, size, first, count, flush);
  }
  for (; first + 6 <= num_bins; first += 6) add_bins<T, kTerms, 6>(bins, terms, size, first, flush);
  for (; first + 2 <= num_bins; first += 2) add_bins<T, kTerms, 2>(bins, terms, size, first, flush);
  for (; first < num_bins; ++first) add_bins<T, kTerms, 1>(bins, terms, size, first, flush);
}

}  // namespace MMACT_ISA
}  // namespace mmact
