// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// A normalisation in front of a formula (Norm in task.h), on runs of elements that lie together in
// memory and are in L1.
#pragma once

#include "simd.h"

namespace mmact {
namespace MMACT_ISA {

// The numbers of the channels from `channel` on, one per lane; 0 where there are none.
template <class T>
MMACT_HD inline typename Simd<T>::V numbers_of(const void* numbers, int64_t channel) {
  return numbers == nullptr ? Simd<T>::set(0)
                            : Simd<T>::load(static_cast<const T*>(numbers) + channel);
}

// Writes f(x, r) of n values at `x` and at `rest` (or null, for zeros).
template <class T, class F>
MMACT_HD inline void transform(const T* x, const T* rest, int64_t n, T* to, F f) {
  using S = Simd<T>;
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth)
    S::store(to + i, f(S::load(x + i), rest == nullptr ? S::set(0) : S::load(rest + i)));
  if (i == n) return;
  T last[S::kWidth] = {}, last_rest[S::kWidth] = {};
  for (int64_t j = i; j < n; ++j) {
    last[j - i] = x[j];
    if (rest != nullptr) last_rest[j - i] = rest[j];
  }
  S::store(last, f(S::load(last), S::load(last_rest)));
  for (int64_t j = i; j < n; ++j) to[j] = last[j - i];
}

// Calls visit(row, done, length) for the parts of one channel of the n elements from `at` on:
// row % channels is the channel, and the part's elements are those from number `done` on.
template <class Visit>
MMACT_HD inline void for_each_row(const Norm& norm, int64_t at, int64_t n, Visit visit) {
  for (int64_t done = 0, length; done < n; done += length) {
    const int64_t row = (at + done) / norm.inner, stop = (row + 1) * norm.inner - at;
    length = (stop < n ? stop : n) - done;
    visit(row, done, length);
  }
}

// Calls visit(channel, i) for vectors of neighbours that belong to different channels.
template <class T, class Visit>
MMACT_HD inline void for_each_vector(const Norm& norm, int64_t at, int64_t n, Visit visit) {
  int64_t channel = at % norm.channels;
  for (int64_t i = 0; i < n; i += Simd<T>::kWidth) {
    visit(channel, i);
    channel += Simd<T>::kWidth;
    if (channel >= norm.channels) channel %= norm.channels;
  }
}

// Makes z of x, the n elements from `at` on, and of the residual (or null).
template <class T>
MMACT_HD inline void normalise_run(const Norm& norm, int64_t at, int64_t n, const T* x,
                                   const T* residual, T* z) {
  using S = Simd<T>;
  using V = typename S::V;
  const auto affine = [&](int64_t first, int64_t count, V scale, V shift, V center,
                          V factor) MMACT_LAMBDA {
    if (residual == nullptr)
      transform(x + first, residual, count, z + first,
                [&](V v, V) MMACT_LAMBDA { return S::fma(v, scale, shift); });
    else if (norm.factor == nullptr)
      transform(x + first, residual + first, count, z + first,
                [&](V v, V r) MMACT_LAMBDA { return S::fma(v, scale, shift) + r; });
    else
      transform(x + first, residual + first, count, z + first, [&](V v, V r) MMACT_LAMBDA {
        return S::fma(r - center, factor, S::fma(v, scale, shift));
      });
  };
  if (norm.inner > 1) {
    const auto number = [&](const void* numbers, int64_t row) MMACT_LAMBDA {
      return S::set(numbers == nullptr ? 0 : static_cast<const T*>(numbers)[row % norm.channels]);
    };
    for_each_row(norm, at, n, [&](int64_t row, int64_t done, int64_t length) MMACT_LAMBDA {
      affine(done, length, number(norm.scale, row), number(norm.shift, row),
             number(norm.center, row), number(norm.factor, row));
    });
  } else {
    for_each_vector<T>(norm, at, n, [&](int64_t channel, int64_t i) MMACT_LAMBDA {
      const int64_t left = n - i < S::kWidth ? n - i : S::kWidth;
      affine(i, left, numbers_of<T>(norm.scale, channel), numbers_of<T>(norm.shift, channel),
             numbers_of<T>(norm.center, channel), numbers_of<T>(norm.factor, channel));
    });
  }
}

// Adds the n gradients gz of z, of the elements from `at` on, to the sums of `chunk`; where the
// norm is constant, turns them into those of x.
template <class T>
MMACT_HD inline void differentiate_run(const Task& task, int64_t at, int64_t n, const T* x, T* gz,
                                       int64_t chunk) {
  using S = Simd<T>;
  using V = typename S::V;
  const Norm& norm = *task.norm;
  if (norm.inner > 1) {
    for_each_row(norm, at, n, [&](int64_t row, int64_t done, int64_t length) MMACT_LAMBDA {
      const int64_t channel = row % norm.channels;
      const T center = static_cast<const T*>(norm.center)[channel];
      const T scale = static_cast<const T*>(norm.scale)[channel];
      V sum = S::set(0), product = S::set(0);
      const T* const here = x + done;
      T* const g = gz + done;
      int64_t i = 0;
      for (; i + S::kWidth <= length; i += S::kWidth) {
        const V v = S::load(g + i);
        sum += v;
        product = S::fma(v, S::load(here + i) - S::set(center), product);
        if (norm.constant) S::store(g + i, v * S::set(scale));
      }
      double last_sum = 0, last_product = 0;
      for (; i < length; ++i) {
        last_sum += g[i];
        last_product += g[i] * (here[i] - center);
        if (norm.constant) g[i] *= scale;
      }
      // The first chunk that has a part of this row.
      const int64_t start = row * norm.inner, run = task.channels * task.inner;
      const int64_t position = start / run * task.inner + start % task.inner;
      double* const to = norm.sums + 2 * (row * norm.parts + chunk - position / task.chunk);
      to[0] += S::sum(sum) + last_sum;
      to[1] += S::sum(product) + last_product;
    });
  } else {
    double* const sums = norm.sums + chunk * 2 * norm.stride;
    double* const products = sums + norm.stride;
    for (int64_t i = 0, length; i < n; i += length) {
      const int64_t channel = (at + i) % norm.channels, left = norm.channels - channel;
      length = n - i < left ? n - i : left;
      const T* const center = static_cast<const T*>(norm.center) + channel;
      const T* const scale = static_cast<const T*>(norm.scale) + channel;
      T* const g = gz + i;
      const T* const here = x + i;
      double* const sum = sums + channel;
      double* const product = products + channel;
#pragma GCC ivdep
      for (int64_t j = 0; j < length; ++j) {
        sum[j] += g[j];
        product[j] += g[j] * (here[j] - center[j]);
      }
      if (norm.constant)
        for (int64_t j = 0; j < length; ++j) g[j] *= scale[j];
    }
  }
}

}  // namespace MMACT_ISA
}  // namespace mmact
