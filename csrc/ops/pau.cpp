// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::pau and its backward. Schemas, shape functions and autograd are in mmact/ops/pau.py.
#include "../formulas/pau.h"

#include <algorithm>
#include <cmath>

#include "op.h"

namespace mmact {

struct PauOp {
  static constexpr const char* kName = "pau";
  static constexpr size_t kFirstLearned = 0;
  using Settings = PauSettings;
  using Arguments = void(const Tensor&, const Tensor&, const OptionalTensor&, double,
                         c10::string_view, int64_t);

  Settings settings;
  std::array<Tensor, 2> parameters;
  int64_t groups, channel_dim;

  PauOp(const Tensor& x, const Tensor& a, const Tensor& b, const OptionalTensor& seed, double noise,
        c10::string_view name, int64_t channel_dim)
      : channel_dim(channel_dim) {
    const char version = name.size() == 1 ? name[0] : '?';
    TORCH_CHECK(version == 'A' || version == 'B' || version == 'C' || version == 'N',
                "pau: version must be A, B, C or N");
    const int64_t least = version == 'C' ? 1 : 0;
    TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) >= 1 && a.size(1) >= 1 &&
                    b.size(1) >= least && std::max(a.size(1), b.size(1)) <= kPauMaxOrder,
                "pau: numerator and denominator must have shapes (G, m + 1) and (G, n), got ",
                a.sizes(), " and ", b.sizes());
    groups = a.size(0);
    check_parameter(kName, "numerator", a, x, a.sizes());
    check_parameter(kName, "denominator", b, x, {groups, b.size(1)});
    check_input(kName, x, groups, channel_dim);
    TORCH_CHECK(noise == 0 || (seed.has_value() && seed->scalar_type() == at::kLong &&
                               seed->numel() == 1 && seed->device() == x.device()),
                "pau: with noise, seed must be one int64 on ", x.device());
    parameters = {a.contiguous(), b.contiguous()};
    PauForm form{};
    form.m = static_cast<int>(a.size(1)) - 1;
    form.n = static_cast<int>(b.size(1) - least);
    form.constant = version == 'C' ? 0.1 : 1;
    form.abs_x = version == 'A';
    form.abs_a = version == 'B' || version == 'C';
    // Powers up to 1e20 leave room for the coefficients, and for products with gradients.
    const double room = x.scalar_type() == at::kDouble ? 200 : 20;
    form.limit = std::pow(10.0, room / std::max({form.m, form.n, 1}));
    form.noise = noise;
    settings = {form, noise == 0 ? nullptr : seed->const_data_ptr<int64_t>(), version == 'C'};
  }
};

}  // namespace mmact

MMACT_REGISTER(PauOp)
