// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// AVX-512 (F, BW, DQ, VL). Included by simd.h only.

template <class T>
struct Simd;

template <>
struct Simd<float> : SimdPortable<float, 64> {
  using Mask = __mmask16;
  MMACT_HD static bool any(I mask) {
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0;
  }
  MMACT_HD static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  // a / b, given r = 1 / b: one step of Newton's iteration rounds the quotient correctly.
  MMACT_HD static V quotient(V a, V b, V r) {
    const V q = a * r;
    return fma(_mm512_fnmadd_ps(q, b, a), r, q);
  }
  // Many times as fast as a division: the reciprocal to 14 bits, and one step of Newton's
  // iteration.
  MMACT_HD static V divide(V a, V b) {
    const V r = _mm512_rcp14_ps(b);
    return a * fma(_mm512_fnmadd_ps(b, r, set(1)), r, r);
  }
  MMACT_HD static V scale(V v, V n) { return _mm512_scalef_ps(v, n); }
  MMACT_HD static V at_least(V v, V bound) { return _mm512_max_ps(bound, v); }
  MMACT_HD static V at_most(V v, V bound) { return _mm512_min_ps(bound, v); }
  MMACT_HD static V floor(V v) { return _mm512_floor_ps(v); }
  MMACT_HD static Mask equal(I a, int b) {
    return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), _mm512_set1_epi32(b));
  }
  MMACT_HD static V add_where(V to, Mask mask, V v) { return _mm512_mask_add_ps(to, mask, to, v); }
  MMACT_HD static V gather(const float* from, I index) {
    return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), from, 4);
  }
};

template <>
struct Simd<double> : SimdPortable<double, 64> {
  using Mask = __mmask8;
  MMACT_HD static bool any(I mask) {
    return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask)) != 0;
  }
  MMACT_HD static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  MMACT_HD static V floor(V v) { return _mm512_floor_pd(v); }
  MMACT_HD static Mask equal(I a, int b) {
    return _mm512_cmpeq_epi64_mask(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b));
  }
  MMACT_HD static V add_where(V to, Mask mask, V v) { return _mm512_mask_add_pd(to, mask, to, v); }
  MMACT_HD static V gather(const double* from, I index) {
    return _mm512_i64gather_pd(reinterpret_cast<__m512i>(index), from, 8);
  }
};

// One table for all lanes, in two registers: a lookup is one permutation.
template <class T>
struct RegisterTable;

template <>
struct RegisterTable<float> {
  using S = Simd<float>;
  static constexpr int kCapacity = 32;
  __m512 low, high;
  MMACT_HD static RegisterTable load(const float* from, int64_t count, int64_t) {
    const uint32_t present = count < 32 ? (1u << count) - 1 : ~0u;
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(present), from),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(present >> 16), from + 16)};
  }
  MMACT_HD S::V at(S::I i) const {
    return _mm512_permutex2var_ps(low, reinterpret_cast<__m512i>(i), high);
  }
};

template <>
struct RegisterTable<double> {
  using S = Simd<double>;
  static constexpr int kCapacity = 16;
  __m512d low, high;
  MMACT_HD static RegisterTable load(const double* from, int64_t count, int64_t) {
    const uint32_t present = count < 16 ? (1u << count) - 1 : ~0u;
    return {_mm512_maskz_loadu_pd(static_cast<__mmask8>(present), from),
            _mm512_maskz_loadu_pd(static_cast<__mmask8>(present >> 8), from + 8)};
  }
  MMACT_HD S::V at(S::I i) const {
    return _mm512_permutex2var_pd(low, reinterpret_cast<__m512i>(i), high);
  }
};

struct BFloat16 {
  using Raw = uint16_t;
  using Value = float;
  static constexpr bool kConverts = true;
  using S = Simd<float>;
  MMACT_HD static S::V load(const Raw* from) {
    const __m512i wide =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  MMACT_HD static void store(Raw* to, S::V v) {
    const __m512i bits = _mm512_castps_si512(v);
    // To nearest, ties to even; a NaN must not round up to infinity.
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                                    _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
};

struct Half {
  using Raw = uint16_t;
  using Value = float;
  static constexpr bool kConverts = true;
  using S = Simd<float>;
  MMACT_HD static S::V load(const Raw* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  MMACT_HD static void store(Raw* to, S::V v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};
