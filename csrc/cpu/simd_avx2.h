// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// AVX2 with FMA and F16C. Included by simd.h only.

template <class T>
struct Simd;

template <>
struct Simd<float> : SimdPortable<float, 32> {
  MMACT_HD static bool any(I mask) {
    return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
  }
  MMACT_HD static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  // a / b, given r = 1 / b: one step of Newton's iteration rounds the quotient correctly.
  MMACT_HD static V quotient(V a, V b, V r) {
    const V q = a * r;
    return fma(_mm256_fnmadd_ps(q, b, a), r, q);
  }
  MMACT_HD static V at_least(V v, V bound) { return _mm256_max_ps(bound, v); }
  MMACT_HD static V at_most(V v, V bound) { return _mm256_min_ps(bound, v); }
  MMACT_HD static V floor(V v) { return _mm256_floor_ps(v); }
  MMACT_HD static V add_where(V to, I mask, V v) {
    return to + reinterpret_cast<V>(mask & reinterpret_cast<I>(v));
  }
  MMACT_HD static V gather(const float* from, I index) {
    return _mm256_i32gather_ps(from, reinterpret_cast<__m256i>(index), 4);
  }
};

template <>
struct Simd<double> : SimdPortable<double, 32> {
  MMACT_HD static bool any(I mask) {
    return _mm256_movemask_pd(reinterpret_cast<__m256d>(mask)) != 0;
  }
  MMACT_HD static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  MMACT_HD static V floor(V v) { return _mm256_floor_pd(v); }
  MMACT_HD static V add_where(V to, I mask, V v) {
    return to + reinterpret_cast<V>(mask & reinterpret_cast<I>(v));
  }
  MMACT_HD static V gather(const double* from, I index) {
    return _mm256_i64gather_pd(from, reinterpret_cast<__m256i>(index), 8);
  }
};

struct BFloat16 {
  using Raw = uint16_t;
  using Value = float;
  static constexpr bool kConverts = true;
  using S = Simd<float>;
  MMACT_HD static S::V load(const Raw* from) {
    const __m256i wide =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  MMACT_HD static void store(Raw* to, S::V v) {
    for (int i = 0; i < S::kWidth; ++i) to[i] = float_to_bfloat16(v[i]);
  }
};

struct Half {
  using Raw = uint16_t;
  using Value = float;
  static constexpr bool kConverts = true;
  using S = Simd<float>;
  MMACT_HD static S::V load(const Raw* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  MMACT_HD static void store(Raw* to, S::V v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};
