// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From the velocities of a CPAB transformation to the table that formulas/cpab.h reads, and
// gradients back. Always in double, one group of channels at a time. segment_table in
// mmact/ops/cpab.py is the same in PyTorch operations, and explains the columns.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "macros.h"

namespace mmact {

constexpr double kCpabMaxSpeed = 32;  // MAX_SPEED of mmact/ops/cpab.py
constexpr double kCpabStill = 1e-60;  // _STILL there
constexpr int kCpabColumns = 5;

// A number with its derivatives in n others.
template <int n>
struct Dual {
  double value;
  double d[n];

  MMACT_HD Dual(double v = 0) : value(v), d{} {}  // NOLINT: numbers are constants
  MMACT_HD static Dual variable(double v, int which) {
    Dual dual(v);
    dual.d[which] = 1;
    return dual;
  }
  // f(this), given the value and the derivative there.
  MMACT_HD Dual chain(double v, double slope) const {
    Dual result(v);
    for (int k = 0; k < n; ++k) result.d[k] = slope * d[k];
    return result;
  }
  MMACT_HD friend Dual operator+(Dual a, const Dual& b) {
    a.value += b.value;
    for (int k = 0; k < n; ++k) a.d[k] += b.d[k];
    return a;
  }
  MMACT_HD friend Dual operator-(Dual a, const Dual& b) {
    a.value -= b.value;
    for (int k = 0; k < n; ++k) a.d[k] -= b.d[k];
    return a;
  }
  MMACT_HD friend Dual operator*(const Dual& a, const Dual& b) {
    Dual result(a.value * b.value);
    for (int k = 0; k < n; ++k) result.d[k] = a.d[k] * b.value + a.value * b.d[k];
    return result;
  }
  MMACT_HD friend Dual operator/(const Dual& a, const Dual& b) {
    Dual result(a.value / b.value);
    for (int k = 0; k < n; ++k) result.d[k] = (a.d[k] - result.value * b.d[k]) / b.value;
    return result;
  }
};

MMACT_HD inline double value_of(double v) { return v; }
template <int n>
MMACT_HD inline double value_of(const Dual<n>& v) {
  return v.value;
}

// Functions of a double or a Dual, with the derivatives of the ratios from series near 0, where the
// quotient rule would cancel.

MMACT_HD inline double expm1_ratio(double z) { return z == 0 ? 1 : ::expm1(z) / z; }
MMACT_HD inline double log1p_ratio(double z) { return z == 0 ? 1 : ::log1p(z) / z; }
MMACT_HD inline double exponential(double z) { return ::exp(z); }
MMACT_HD inline double expm1_of(double z) { return ::expm1(z); }
MMACT_HD inline double logarithm(double z) { return ::log(z); }

template <int n>
MMACT_HD inline Dual<n> expm1_ratio(const Dual<n>& z) {
  const double v = z.value, ratio = expm1_ratio(v);
  double slope = 1;
  if (::fabs(v) < 0.5) {
    for (int k = 15; k > 0; --k) slope = 1 + slope * v * (k + 1) / (k * (k + 2.0));
    slope *= 0.5;
  } else {
    slope = (::exp(v) - ratio) / v;
  }
  return z.chain(ratio, slope);
}

template <int n>
MMACT_HD inline Dual<n> log1p_ratio(const Dual<n>& z) {
  const double v = z.value, ratio = log1p_ratio(v);
  double slope = 0;
  if (::fabs(v) < 0.1) {
    for (int k = 17; k > 0; --k) slope = slope * v + (k % 2 ? -k : k) / (k + 1.0);
  } else {
    slope = (1 / (1 + v) - ratio) / v;
  }
  return z.chain(ratio, slope);
}

template <int n>
MMACT_HD inline Dual<n> exponential(const Dual<n>& z) {
  const double v = ::exp(z.value);
  return z.chain(v, v);
}

template <int n>
MMACT_HD inline Dual<n> expm1_of(const Dual<n>& z) {
  return z.chain(::expm1(z.value), ::exp(z.value));
}

template <int n>
MMACT_HD inline Dual<n> logarithm(const Dual<n>& z) {
  return z.chain(::log(z.value), 1 / z.value);
}

// The larger of two, and v within [low, high]; constants have no derivatives, and NaN stays.
template <class R>
MMACT_HD inline R at_least(const R& v, double low) {
  return value_of(v) < low ? R(low) : v;
}
template <class R>
MMACT_HD inline R within(const R& v, double low, double high) {
  return value_of(v) < low ? R(low) : value_of(v) > high ? R(high) : v;
}

// The time from one knot to the next at these speeds. Cells that take longer than the one unit of
// time there is count 2, so that differences of arrival times keep their precision.
template <class R>
MMACT_HD inline R cpab_crossing_time(const R& slow, const R& fast, double width) {
  const R time = R(width) / slow * log1p_ratio(fast / slow - R(1));
  return value_of(time) < 1.5 ? time : R(2);
}

// The constants of a segment, but for p.
template <class R>
struct CpabSegment {
  R columns[kCpabColumns - 1];  // d, m, alpha, beta
};

// Who makes the table of a group: one thread here, the threads of a block on a GPU. each(n, work)
// runs work(0) to work(n - 1), and once(work) runs work; all see the results.
struct CpabAlone {
  template <class Work>
  MMACT_HD void each(int n, Work work) const {
    for (int k = 0; k < n; ++k) work(k);
  }
  template <class Work>
  MMACT_HD void once(Work work) const {
    work();
  }
};

// The common part of all groups of channels.
struct CpabDomain {
  int cells;
  double a, b;
  bool affine;     // outside, the flow of the outer cells goes on
  double epsilon;  // of the arithmetic that will read the table: float's or double's

  MMACT_HD double width() const { return (b - a) / cells; }
  MMACT_HD double knot(int k) const {
    return k < (cells + 1) / 2 ? a + k * width() : b - (cells - k) * width();
  }
  MMACT_HD double fastest() const { return kCpabMaxSpeed * width(); }
  MMACT_HD double still() const { return kCpabStill * width(); }
  MMACT_HD double round(double v) const {
    return epsilon > DBL_EPSILON ? static_cast<double>(static_cast<float>(v)) : v;
  }
  MMACT_HD int segments() const { return 2 * cells - 1; }  // those in the domain
  // Doubles that one group needs while its table or gradient is made.
  MMACT_HD int64_t scratch_size() const { return 25 * (cells + 1); }
};

// The field of one group, and where its trajectories begin and end.
struct CpabField {
  CpabDomain domain;
  double *velocity, *arrival;       // at each knot
  double *preimages, *images;       // of the inner knots
  double *edges, *targets, *knots;  // of the segments: x, T(x), and how many of the edges are knots
  double* end;                      // of the scratch that is used

  MMACT_HD double slope(int cell) const {
    return (velocity[cell + 1] - velocity[cell]) / domain.width();
  }
  MMACT_HD double time_between(int knot, int other) const {
    return ::fabs(arrival[knot] - arrival[other]);
  }
  // Whether the flow crosses a whole cell.
  MMACT_HD bool crosses(int cell) const {
    const double left = velocity[cell], right = velocity[cell + 1];
    return ((left > 0 && right > 0) || (left < 0 && right < 0)) &&
           ::fmin(::fabs(left), ::fabs(right)) > domain.still();
  }

  template <class Team>
  MMACT_HD CpabField(const Team& team, const double* theta, const CpabDomain& shared,
                     double* scratch)
      : domain(shared) {
    const int cells = domain.cells;
    velocity = scratch;
    arrival = velocity + cells + 1;
    preimages = arrival + cells + 1;
    images = preimages + cells - 1;
    edges = images + cells - 1;
    targets = edges + 2 * cells;
    knots = targets + 2 * cells;
    end = knots + 2 * cells;
    team.each(cells + 1, [&](int k) {
      const bool inner = k > 0 && k < cells;
      velocity[k] = inner ? within(theta[k - 1], -domain.fastest(), domain.fastest()) : 0;
    });
    team.each(cells, [&](int k) {
      const double left = ::fabs(velocity[k]), right = ::fabs(velocity[k + 1]);
      arrival[k + 1] =
          crosses(k) ? cpab_crossing_time(::fmin(left, right), ::fmax(left, right), domain.width())
                     : 2;
    });
    team.once([&]() {
      arrival[0] = 0;
      for (int k = 0; k < cells; ++k) arrival[k + 1] += arrival[k];
    });
    team.each(2 * (cells - 1), [&](int k) {
      if (k < cells - 1)
        preimages[k] = origin(k + 1, 1);
      else
        images[k - cells + 1] = origin(k - cells + 2, -1);
    });
    team.once([&]() {
      for (int k = 1; k < cells - 1; ++k) {  // ascending; NaN stays
        preimages[k] = preimages[k] < preimages[k - 1] ? preimages[k - 1] : preimages[k];
        images[k] = images[k] < images[k - 1] ? images[k - 1] : images[k];
      }
      merge();
    });
  }

  // Where an inner knot comes from (direction 1) or goes to (-1) in one unit of time.
  MMACT_HD double origin(int k, int direction) const {
    const double now = direction * velocity[k];
    if (!(::fabs(now) > domain.still())) return now == now ? domain.knot(k) : now;
    const bool rightward = now > 0;
    // Backwards in time, the last knot that is passed.
    int last = k;
    if (rightward)
      while (last > 1 && arrival[k] - arrival[last - 1] < 1) --last;
    else
      while (last < domain.cells - 1 && arrival[last + 1] - arrival[k] < 1) ++last;
    const int cell = rightward ? last - 1 : last, other = rightward ? cell : cell + 1;
    const double time = 1 - time_between(k, last);
    const double v = direction * velocity[last], s = direction * slope(cell);
    double from;
    if (s * time > 0.5)  // near the cell's other knot: counted from there
      from = domain.knot(other) + (v * ::exp(-s * time) - direction * velocity[other]) / s;
    else
      from = domain.knot(last) - v * time * expm1_ratio(-s * time);
    return within(from, domain.knot(cell), domain.knot(cell + 1));
  }

  // Knots and preimages in one ascending row, knots first where they are equal.
  MMACT_HD void merge() const {
    const int cells = domain.cells;
    int passed = 0, pre = 0;  // knots, preimages
    double highest = -INFINITY;
    for (int i = 0; i < 2 * cells; ++i) {
      const bool is_knot =
          pre == cells - 1 ||
          (passed <= cells && !(domain.round(preimages[pre]) < domain.round(domain.knot(passed))));
      double target;
      if (is_knot) {
        edges[i] = domain.round(domain.knot(passed));
        target = passed == 0 || passed == cells ? domain.knot(passed) : images[passed - 1];
        ++passed;
      } else {
        edges[i] = domain.round(preimages[pre]);
        target = domain.knot(++pre);
      }
      highest = target < highest ? highest : target;  // NaN stays
      targets[i] = highest;
      knots[i] = passed;
    }
  }
};

// Segment i of 0 .. 2 N - 2, from edges[i] to edges[i + 1]: which trajectories it has.
struct CpabPath {
  int first, last, leave, enter, near;  // cells; knots
  double p;
  bool moving, narrow;
  double straight_d, straight_m;  // of a narrow segment

  MMACT_HD CpabPath(const CpabField& f, int i) {
    const int knots = static_cast<int>(f.knots[i]);
    const CpabDomain& domain = f.domain;
    const double left = f.edges[i], right = f.edges[i + 1];
    first = knots - 1 < domain.cells - 1 ? knots - 1 : domain.cells - 1;
    last = i + 1 - knots;
    const bool rightward = last > first;
    leave = first + rightward;
    enter = last + !rightward;
    moving = last != first &&
             ::fmin(::fabs(f.velocity[leave]), ::fabs(f.velocity[enter])) > domain.still();
    // Where T is so steep that rounding x moves T(x) by much of a cell, a segment of few numbers is
    // taken for a straight line, without a gradient for theta.
    const double span = right - left;
    const double ulp = domain.epsilon * ::fmax(::fabs(left), ::fabs(right));
    const double s = f.slope(first), s_last = f.slope(last);
    narrow = span <= 16 * ulp && ::exp(::fabs(s) + ::fabs(s_last)) * ulp > 1e-3 * domain.width();
    const double start = f.domain.knot(first);
    const double at_left = f.velocity[first] + s * (left - start);
    const double at_right = f.velocity[first] + s * (right - start);
    p = moving && !narrow && ::fabs(at_right) < ::fabs(at_left) ? right : left;
    near = first + (p - start > domain.width() / 2);
    straight_d = f.targets[i] - p;
    straight_m = (f.targets[i + 1] - f.targets[i]) / (span > 0 ? span : 1) - 1;
  }

  // The constants from the velocity at knot `near`, the slopes of the first and last cell, the
  // velocities at the knots by which the flow leaves the first and enters the last, and the time
  // between these.
  template <class R>
  MMACT_HD CpabSegment<R> segment(const CpabField& f, const R& v_near, const R& s, const R& s_last,
                                  const R& v_leave, const R& v_enter, const R& between) const {
    const R zero(0);
    if (narrow) return {{R(straight_d), R(straight_m), zero, zero}};
    const R v = v_near + s * R(p - f.domain.knot(near));
    if (!moving) return {{v * expm1_ratio(s), expm1_of(s), zero, zero}};
    // A bound may be rounded to where, by the formula, the time in the first cell is not from 0 to
    // what the cells between leave over. By a little that does not matter; beyond, the velocity at
    // p is taken to be what it is at the limit.
    const double slope = value_of(s);
    const double margin = 0.25 / (1 + ::fabs(slope) + ::fabs(value_of(s_last)));
    const double longest = within(1 - value_of(between), 0.0, 1.0) + margin;
    const R u =
        within(R(p - f.domain.knot(leave)) / v_leave, -longest * expm1_ratio(-slope * longest),
               margin * expm1_ratio(slope * margin));
    const R change = s * u;
    R start, in_first;
    if (value_of(change) < -0.5) {  // 1 + change would cancel
      const R ratio = at_least(v / v_leave, ::exp(-slope * longest));
      start = v_leave * ratio;
      in_first = logarithm(ratio) / s;
    } else {
      start = v_leave * (R(1) + change);
      in_first = u * log1p_ratio(change);
    }
    const R time = R(1) - (value_of(between) > 1.5 ? R(1.5) : between) + in_first;
    return {{R(f.domain.knot(enter) - p) + v_enter * time * expm1_ratio(s_last * time),
             v_enter * exponential(s_last * time) / start - R(1), s / start, s_last / start}};
  }
};

// Fills the breakpoints (2 N) and the table (2 N + 1, 5) of one group. `scratch` has scratch_size
// numbers.
template <class Team>
MMACT_HD inline void cpab_make_table(const Team& team, const double* theta,
                                     const CpabDomain& domain, double* scratch, double* breakpoints,
                                     double* table) {
  const CpabField f(team, theta, domain, scratch);
  const int cells = domain.cells;
  team.each(2 * cells + 1, [&](int i) {
    if (i < 2 * cells) breakpoints[i] = f.edges[i];
    double* const row = table + i * kCpabColumns;
    if (i > 0 && i < 2 * cells) {
      const CpabPath path(f, i - 1);
      const auto constants = path.segment<double>(
          f, f.velocity[path.near], f.slope(path.first), f.slope(path.last), f.velocity[path.leave],
          f.velocity[path.enter], f.time_between(path.leave, path.enter));
      row[0] = path.p;
      for (int k = 1; k < kCpabColumns; ++k) row[k] = constants.columns[k - 1];
    } else {  // outside: d + (1 + m) x
      const double grown = domain.affine ? ::expm1(f.slope(i == 0 ? 0 : cells - 1)) : 0;
      row[1] = -(i == 0 ? domain.a : domain.b) * grown;
      row[2] = grown;
      row[0] = row[3] = row[4] = 0;
    }
  });
}

// From the gradient of one group's table to that of its theta.
template <class Team>
MMACT_HD inline void cpab_theta_gradient(const Team& team, const double* g_table,
                                         const double* theta, const CpabDomain& domain,
                                         double* scratch, double* g_theta) {
  constexpr int kInputs = 6;
  const CpabField f(team, theta, domain, scratch);
  const int cells = domain.cells;
  double* const g_inputs = f.end;  // of each segment
  double* const g_velocity = g_inputs + kInputs * domain.segments();
  double* const g_slope = g_velocity + cells + 1;
  double* const g_time = g_slope + cells;  // to cross a cell
  team.each(domain.segments(), [&](int i) {
    using R = Dual<kInputs>;
    const CpabPath path(f, i);
    const auto constants = path.segment<R>(
        f, R::variable(f.velocity[path.near], 0), R::variable(f.slope(path.first), 1),
        R::variable(f.slope(path.last), 2), R::variable(f.velocity[path.leave], 3),
        R::variable(f.velocity[path.enter], 4),
        R::variable(f.time_between(path.leave, path.enter), 5));
    for (int j = 0; j < kInputs; ++j) {
      double g = 0;
      for (int k = 1; k < kCpabColumns; ++k)
        g += g_table[(i + 1) * kCpabColumns + k] * constants.columns[k - 1].d[j];
      g_inputs[i * kInputs + j] = g;
    }
  });
  team.once([&]() {
    for (int k = 0; k < 3 * cells + 1; ++k) g_velocity[k] = 0;
    for (int i = 0; i < domain.segments(); ++i) {
      const CpabPath path(f, i);
      const double* const g = g_inputs + i * kInputs;
      g_velocity[path.near] += g[0];
      g_slope[path.first] += g[1];
      g_slope[path.last] += g[2];
      g_velocity[path.leave] += g[3];
      g_velocity[path.enter] += g[4];
      const bool rightward = path.leave < path.enter;
      const int from = rightward ? path.leave : path.enter;
      const int to = rightward ? path.enter : path.leave;
      for (int cell = from; cell < to; ++cell) g_time[cell] += g[5];
    }
    if (domain.affine) {
      const double* const right = g_table + 2 * cells * kCpabColumns;
      g_slope[0] += (g_table[2] - domain.a * g_table[1]) * ::exp(f.slope(0));
      g_slope[cells - 1] += (right[2] - domain.b * right[1]) * ::exp(f.slope(cells - 1));
    }
    for (int cell = 0; cell < cells; ++cell) {
      const double left = f.velocity[cell], right = f.velocity[cell + 1];
      g_velocity[cell] -= g_slope[cell] / domain.width();
      g_velocity[cell + 1] += g_slope[cell] / domain.width();
      if (!f.crosses(cell)) continue;
      using R = Dual<2>;
      const R start = R::variable(::fabs(left), 0), stop = R::variable(::fabs(right), 1);
      const bool slow_start = start.value < stop.value;
      const R time =
          cpab_crossing_time(slow_start ? start : stop, slow_start ? stop : start, domain.width());
      const double g = left > 0 ? g_time[cell] : -g_time[cell];
      g_velocity[cell] += g * time.d[0];
      g_velocity[cell + 1] += g * time.d[1];
    }
    for (int k = 1; k < cells; ++k)
      g_theta[k - 1] = ::fabs(theta[k - 1]) <= domain.fastest() ? g_velocity[k] : 0;
  });
}

// The work for one group of channels, by a team with scratch memory.

struct CpabMakeTables {
  CpabDomain domain;
  const double* theta;          // (G, N - 1)
  double *breakpoints, *table;  // (G, 2 N), (G, 2 N + 1, 5)

  template <class Team>
  MMACT_HD void operator()(const Team& team, int64_t group, double* scratch) const {
    const int64_t count = 2 * domain.cells;
    cpab_make_table(team, theta + group * (domain.cells - 1), domain, scratch,
                    breakpoints + group * count, table + group * (count + 1) * kCpabColumns);
  }
};

struct CpabThetaGradients {
  CpabDomain domain;
  const double *g_table, *theta;  // (G, 2 N + 1, 5), (G, N - 1)
  double* g_theta;                // (G, N - 1)

  template <class Team>
  MMACT_HD void operator()(const Team& team, int64_t group, double* scratch) const {
    const int64_t inner = domain.cells - 1, size = (2 * domain.cells + 1) * kCpabColumns;
    cpab_theta_gradient(team, g_table + group * size, theta + group * inner, domain, scratch,
                        g_theta + group * inner);
  }
};

}  // namespace mmact
