// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Two vectors as one number system, for formulas whose steps wait for each other: while one
// vector's step is under way, the other's can begin.
#pragma once

#include "simd.h"

namespace mmact {
namespace MMACT_ISA {

template <class T>
struct Pair {
  T first, second;
};

#define MMACT_PAIR_OPERATOR(op)                                        \
  template <class A, class B>                                          \
  MMACT_HD inline auto operator op(const Pair<A>& a, const Pair<B>& b) \
      ->Pair<decltype(a.first op b.first)> {                           \
    return {a.first op b.first, a.second op b.second};                 \
  }
MMACT_PAIR_OPERATOR(+)
MMACT_PAIR_OPERATOR(-)
MMACT_PAIR_OPERATOR(*)
MMACT_PAIR_OPERATOR(<)
MMACT_PAIR_OPERATOR(>)
MMACT_PAIR_OPERATOR(>=)
MMACT_PAIR_OPERATOR(==)
#undef MMACT_PAIR_OPERATOR

template <class A>
MMACT_HD inline Pair<A> operator+(const Pair<A>& a, int b) {
  return {a.first + b, a.second + b};
}
template <class A>
MMACT_HD inline Pair<A> operator-(const Pair<A>& a) {
  return {-a.first, -a.second};
}

template <class M>
struct TwiceMath {
  template <class V>
  MMACT_HD static V log1p_ratio(const V& v) {
    return {M::log1p_ratio(v.first), M::log1p_ratio(v.second)};
  }
  template <class V>
  MMACT_HD static V expm1_ratio(const V& v) {
    return {M::expm1_ratio(v.first), M::expm1_ratio(v.second)};
  }
  template <class V>
  MMACT_HD static V exp_negative(const V& v) {
    return {M::exp_negative(v.first), M::exp_negative(v.second)};
  }
  template <class V>
  MMACT_HD static V normal_cdf(const V& v) {
    return {M::normal_cdf(v.first), M::normal_cdf(v.second)};
  }
};

template <class S>
struct Twice {
  using Math = TwiceMath<typename S::Math>;
  using Value = typename S::Value;
  using V = Pair<typename S::V>;
  using I = Pair<typename S::I>;

  MMACT_HD static V set(Value value) { return {S::set(value), S::set(value)}; }
  MMACT_HD static V select(const I& mask, const V& yes, const V& no) {
    return {S::select(mask.first, yes.first, no.first),
            S::select(mask.second, yes.second, no.second)};
  }
  MMACT_HD static I increment_where(const I& to, const I& mask) {
    return {S::increment_where(to.first, mask.first), S::increment_where(to.second, mask.second)};
  }
  MMACT_HD static V at_least(const V& v, const V& bound) {
    return {S::at_least(v.first, bound.first), S::at_least(v.second, bound.second)};
  }
  MMACT_HD static V at_most(const V& v, const V& bound) {
    return {S::at_most(v.first, bound.first), S::at_most(v.second, bound.second)};
  }
  MMACT_HD static V divide(const V& a, const V& b) {
    return {S::divide(a.first, b.first), S::divide(a.second, b.second)};
  }
  MMACT_HD static V fma(const V& a, const V& b, const V& c) {
    return {S::fma(a.first, b.first, c.first), S::fma(a.second, b.second, c.second)};
  }
};

// A table, looked up for both.
template <class Table>
struct TwiceTable {
  Table table;
  template <class I>
  MMACT_HD auto at(const Pair<I>& i) const -> Pair<decltype(table.at(i.first))> {
    return {table.at(i.first), table.at(i.second)};
  }
  template <int kFrom, int kTo, class I>
  MMACT_HD auto between(const Pair<I>& i) const -> Pair<decltype(table.at(i.first))> {
    return {table.template between<kFrom, kTo>(i.first),
            table.template between<kFrom, kTo>(i.second)};
  }
};

template <class Column>
struct TwiceColumn {
  Column column;
  MMACT_HD auto at(int row) const -> Pair<decltype(column.at(row))> {
    return {column.at(row), column.at(row)};
  }
  MMACT_HD auto table(int row, int count) const {
    return TwiceTable<decltype(column.table(row, count))>{column.table(row, count)};
  }
};

}  // namespace MMACT_ISA
}  // namespace mmact
