// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Vectors of the instruction set that MMACT_ISA names, for formulas and engine: Simd<float> and
// Simd<double>. Nothing here may use anything from libraries that is not inlined by force.
//
// GCC's and clang's vector extensions do the arithmetic and comparisons. The few things that they
// cannot express, or not well, are in simd_avx2.h and simd_avx512.h.
#pragma once

#include <type_traits>

#include "isa.h"

namespace mmact {
namespace MMACT_ISA {

// Transcendental functions of Simd<T>, in math.h.
template <class T>
struct Math;

template <class T, int kBytes>
struct SimdBase {
  using Value = T;
  using Math = MMACT_ISA::Math<T>;
  static constexpr int kWidth = kBytes / sizeof(T);
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T V __attribute__((vector_size(kBytes)));
  typedef Int I __attribute__((vector_size(kBytes)));
  typedef std::make_unsigned_t<Int> U __attribute__((vector_size(kBytes)));  // 32 bits are used

  MMACT_HD static V set(T value) { return value - V{}; }
  MMACT_HD static V load(const T* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof(v));
    return v;
  }
  MMACT_HD static void store(T* to, V v) { __builtin_memcpy(to, &v, sizeof(v)); }
  MMACT_HD static V select(I mask, V yes, V no) { return mask ? yes : no; }
  MMACT_HD static I to_index(V v) { return __builtin_convertvector(v, I); }
  MMACT_HD static V from_bits(U bits) { return __builtin_convertvector(bits, V); }
  MMACT_HD static V abs(V v) {
    constexpr Int kMagnitude = static_cast<Int>(~std::make_unsigned_t<Int>(0) >> 1);
    return reinterpret_cast<V>(reinterpret_cast<I>(v) & kMagnitude);
  }
  MMACT_HD static bool any(I mask) {
    Int found = 0;
    for (int lane = 0; lane < kWidth; ++lane) found |= mask[lane];
    return found != 0;
  }
  MMACT_HD static I increment_where(I to, I mask) { return to - mask; }
  MMACT_HD static I select_index(I mask, I yes, I no) { return mask ? yes : no; }
  MMACT_HD static V at_least(V v, V bound) { return v < bound ? bound : v; }  // NaN stays
  MMACT_HD static V at_most(V v, V bound) { return v > bound ? bound : v; }
  MMACT_HD static double get(V v, int lane) { return v[lane]; }
  MMACT_HD static void put(V& v, int lane, double value) { v[lane] = static_cast<T>(value); }
  MMACT_HD static I lanes() {
    I i;
    for (int lane = 0; lane < kWidth; ++lane) i[lane] = lane;
    return i;
  }
  MMACT_HD static double sum(V v) {
    double total = 0;
    for (int lane = 0; lane < kWidth; ++lane) total += v[lane];
    return total;
  }
};

// Operations that every instruction set has; Simd<T> below is this or overrides some of it.
template <class T, int kBytes>
struct SimdPortable : SimdBase<T, kBytes> {
  using Base = SimdBase<T, kBytes>;
  using V = typename Base::V;
  using I = typename Base::I;
  using Mask = I;

  MMACT_HD static V fma(V a, V b, V c) { return a * b + c; }
  MMACT_HD static V quotient(V a, V b, V) { return a / b; }
  // a / b within 2 units in the last place; NaN where b is infinite, 0 or subnormal.
  MMACT_HD static V divide(V a, V b) { return a / b; }
  // v * 2^n for whole numbers n; 0 where that is below the normal numbers. Of float only.
  MMACT_HD static V scale(V v, V n) {
    n = Base::at_most(n, Base::set(127));
    const I power = (Base::to_index(Base::at_least(n, Base::set(-126))) + 127) << 23;
    return n < Base::set(-126) ? Base::set(0) : v * reinterpret_cast<V>(power);
  }
  MMACT_HD static V floor(V v) {
    // Exact for |v| < 2^31; beyond, and for NaN, the result is only used after clipping.
    V truncated;
    for (int i = 0; i < Base::kWidth; ++i) truncated[i] = __builtin_floor(v[i]);
    return truncated;
  }
  MMACT_HD static Mask equal(I a, int b) { return a == b; }
  MMACT_HD static V add_where(V to, Mask mask, V v) { return mask ? to + v : to; }
  MMACT_HD static V gather(const T* from, I index) {
    V v;
    for (int i = 0; i < Base::kWidth; ++i) v[i] = from[index[i]];
    return v;
  }
};

#if MMACT_ISA_LEVEL == 2
#include "simd_avx512.inc"
#elif MMACT_ISA_LEVEL == 1
#include "simd_avx2.inc"
#else
template <class T>
struct Simd : SimdPortable<T, 16> {};
#endif

// Table lookups. `at(i)` gives entry i[lane] for every lane, and so does `between<from, to>(i)`,
// which relies on from <= i < to.

// One table for all lanes, in memory.
template <class T>
struct MemoryTable {
  using S = Simd<T>;
  const T* entries;
  MMACT_HD static MemoryTable load(const T* from, int64_t, int64_t) { return {from}; }
  MMACT_HD typename S::V at(typename S::I i) const { return S::gather(entries, i); }
  template <int kFrom, int kTo>
  MMACT_HD typename S::V between(typename S::I i) const {
    return at(i);
  }
};

// A table for each lane: entry i of lane l is at from[i * stride + l].
template <class T>
struct LaneTable {
  using S = Simd<T>;
  const T* entries;
  typename S::Int stride;
  MMACT_HD static LaneTable load(const T* from, int64_t, int64_t stride) {
    return {from, static_cast<typename S::Int>(stride)};
  }
  MMACT_HD typename S::V at(typename S::I i) const {
    return S::gather(entries, i * stride + S::lanes());
  }
  template <int kFrom, int kTo>
  MMACT_HD typename S::V between(typename S::I i) const {
    return at(i);
  }
};

#if MMACT_ISA_LEVEL == 0
// No permutations that look up a table held in registers.
template <class T, int kEntries>
struct RegisterTable : MemoryTable<T> {};
template <class T>
constexpr int register_entries(int) {
  return 0;
}
#endif

// The numbers of a channel, one vector each, `stride` from one row to the next. All lanes hold
// those of one channel, or each those of its own. Table is for what is looked up by index.
template <class T, bool kLanes, template <class> class Table = MemoryTable>
struct Column {
  using S = Simd<T>;
  const T* numbers;
  int64_t stride;
  MMACT_HD typename S::V at(int row) const {
    const T* const here = numbers + row * stride;
    if constexpr (kLanes)
      return S::load(here);
    else
      return S::set(*here);
  }
  MMACT_HD Table<T> table(int row, int count) const {
    return Table<T>::load(numbers + row * stride, count, stride);
  }
};

// Storage types: T in memory as itself, or float as float16 or bfloat16. `Raw` is how it lies
// there.
template <class T>
struct Plain {
  using Raw = T;
  using Value = T;
  static constexpr bool kConverts = false;
  MMACT_HD static typename Simd<T>::V load(const T* from) { return Simd<T>::load(from); }
  MMACT_HD static void store(T* to, typename Simd<T>::V v) { Simd<T>::store(to, v); }
};

#if MMACT_ISA_LEVEL == 0
struct BFloat16 {
  using Raw = uint16_t;
  using Value = float;
  static constexpr bool kConverts = true;
  using S = Simd<float>;
  MMACT_HD static S::V load(const Raw* from) {
    S::V v;
    for (int i = 0; i < S::kWidth; ++i) v[i] = bfloat16_to_float(from[i]);
    return v;
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
    S::V v;
    for (int i = 0; i < S::kWidth; ++i) v[i] = half_to_float(from[i]);
    return v;
  }
  MMACT_HD static void store(Raw* to, S::V v) {
    for (int i = 0; i < S::kWidth; ++i) to[i] = float_to_half(v[i]);
  }
};
#endif

}  // namespace MMACT_ISA
}  // namespace mmact
