// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What the CPU's and the GPU's mmact::pau share: from arguments to the kernel's table and settings,
// and from its sums to gradients.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "checks.h"
#include "formulas/pau.h"
#include "optional_tensor.h"

namespace mmact {

// The arguments of mmact::pau without x, and what follows from them.
struct PauArguments {
  at::Tensor numerator, denominator;
  char version;
  PauSettings settings;  // but for the seed

  PauArguments(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b, double noise,
               c10::string_view name, int64_t channel_dim)
      : numerator(a), denominator(b), version(name.size() == 1 ? name[0] : '?') {
    TORCH_CHECK(version == 'A' || version == 'B' || version == 'C' || version == 'N',
                "pau: version must be A, B, C or N");
    const int64_t least = version == 'C' ? 1 : 0;
    TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) >= 1 && a.size(1) >= 1 &&
                    b.size(1) >= least && std::max(a.size(1), b.size(1)) <= kPauMaxOrder,
                "pau: numerator and denominator must have shapes (G, m + 1) and (G, n), got ",
                a.sizes(), " and ", b.sizes());
    check_parameter("pau", "numerator", a, x, a.size(0), a.size(1));
    check_parameter("pau", "denominator", b, x, a.size(0), b.size(1));
    check_input("pau", x, a.size(0), channel_dim);
    settings = {};
    settings.m = static_cast<int>(a.size(1)) - 1;
    settings.n = static_cast<int>(b.size(1) - least);
    settings.constant = version == 'C' ? 0.1 : 1;
    settings.abs_x = version == 'A';
    settings.abs_a = version == 'B' || version == 'C';
    // Powers up to 1e20 leave room for the coefficients, and for products with gradients.
    const double room = x.scalar_type() == at::kDouble ? 200 : 20;
    settings.limit = std::pow(10.0, room / std::max({settings.m, settings.n, 1}));
    settings.noise = noise;
  }

  int64_t groups() const { return numerator.size(0); }
  int64_t entries() const { return settings.m + settings.n + 2; }

  // The numbers of each group as formulas/pau.h reads them, (G, m + n + 2).
  at::Tensor numbers() const {
    if (version == 'C') return at::cat({numerator, denominator}, 1);
    const at::Tensor zero = at::zeros({groups(), 1}, numerator.options());
    return at::cat({numerator, zero, version == 'A' ? denominator.abs() : denominator}, 1);
  }

  // `sums`: (m + n + 2, at least G).
  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients(const at::Tensor& gx,
                                                           const at::Tensor& sums) const {
    const at::Tensor rows = sums.narrow(1, 0, groups()).t();
    const int64_t first = settings.m + 1, size = denominator.size(1);
    at::Tensor b = rows.narrow(1, entries() - size, size);
    if (version == 'A') b = at::where(denominator.lt(0), -b, b);  // sign(0) = +1
    return {gx, rows.narrow(1, 0, first).to(numerator.scalar_type()).contiguous(),
            b.to(denominator.scalar_type()).contiguous()};
  }
};

inline void check_seed(const at::Tensor& x, const OptionalTensor& seed, double noise) {
  TORCH_CHECK(noise == 0 || (seed.has_value() && seed->scalar_type() == at::kLong &&
                             seed->numel() == 1 && seed->device() == x.device()),
              "pau: with noise, seed must be one int64 on ", x.device());
}

}  // namespace mmact
