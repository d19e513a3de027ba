// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Sums of a tile's terms by bin: those of a table's segments.
#pragma once

#include "tiles.h"

namespace mmact {
namespace MMACT_ISA {

// An element's terms, or sums of them.
template <class T, int kTerms>
struct RowOf {
  typedef T Row __attribute__((vector_size(kTerms * sizeof(T))));
};

// Adds sums to a tile's partial sums: entry e is at e * stride, of the next channel beside it.
template <class T, bool kLanes>
struct Flush {
  // How many rows of sums a bin has, so that elements that follow each other need not wait: one for
  // each channel of a vector, or as many as the latency of an addition asks for.
  static constexpr int kRows = kLanes ? Simd<T>::kWidth : Simd<T>::kWidth < 4 ? Simd<T>::kWidth : 4;
  double* sums;
  int64_t stride;

  // The partial sums of `chunk`, from `channel` on.
  MMACT_HD static Flush to(const Task& task, int64_t chunk, int64_t channel, int64_t entries) {
    if constexpr (kLanes)
      return {task.sums + chunk * entries * task.channel_stride + channel, task.channel_stride};
    else
      return {task.sums + (chunk * task.channels + channel) * entries, 1};
  }
  MMACT_HD void operator()(int64_t entry, typename Simd<T>::V v) const {
    double* const to = sums + entry * stride;
    if constexpr (kLanes)
      for (int lane = 0; lane < Simd<T>::kWidth; ++lane) to[lane] += v[lane];
    else
      *to += Simd<T>::sum(v);
  }
  // Adds the kRows rows of a bin, whose entries begin with `entry`.
  template <int kTerms, class Row>
  MMACT_HD void add_rows(int64_t entry, const Row* rows) const {
    double* const to = sums + entry * stride;
    if constexpr (kLanes) {
      for (int t = 0; t < kTerms; ++t)
        for (int lane = 0; lane < kRows; ++lane) to[t * stride + lane] += rows[lane][t];
    } else {
      using Total = typename RowOf<double, kTerms>::Row;
      Total total{};
      for (int k = 0; k < kRows; ++k) total += __builtin_convertvector(rows[k], Total);
      for (int t = 0; t < kTerms; ++t) to[t * stride] += total[t];
    }
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

// Bins up to which masked additions are the quicker way.
constexpr int kMaskedBins = 6;

// The same for many bins, `count` <= kScattered of them: a row of an element's terms is added to a
// row of the bin's, in L1. If these are not all bins there are, what belongs to no bin of these is
// added to one that nobody reads.
constexpr int kScattered = 64;

template <class T, int kTerms, bool kAll, class Flush>
MMACT_HD inline void scatter_bins(const typename Simd<T>::Int* bins, const T (*terms)[kTile],
                                  int64_t size, int first, int count, Flush flush) {
  constexpr int kWidth = Simd<T>::kWidth, kRows = Flush::kRows;
  using Row = typename RowOf<T, kTerms>::Row;
  alignas(64) Row sums[kScattered + 1][kRows];
  __builtin_memset(sums, 0, sizeof(sums[0]) * (count + 1));
  for (int64_t i = 0; i < size; i += kWidth)
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      auto bin = bins[i + lane] - first;
      if constexpr (!kAll) bin = 0 <= bin && bin < count ? bin : count;
      Row row;
#pragma GCC unroll 4
      for (int t = 0; t < kTerms; ++t) row[t] = terms[t][i + lane];
      sums[bin][lane % kRows] += row;
    }
  for (int b = 0; b < count; ++b) flush.template add_rows<kTerms>((first + b) * kTerms, sums[b]);
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
