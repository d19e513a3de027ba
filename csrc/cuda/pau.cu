// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::pau and its backward on CUDA. Schemas, shape functions and autograd are in
// mmact/ops/pau.py.
#include "../formulas/pau.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../pau_table.h"
#include "rows.cuh"
#include "scalar.h"

namespace mmact {
namespace cuda {
namespace {

using at::Tensor;

// Without noise, the coefficients of the usual orders (5, 4) stay in registers.
template <class T, bool kUsual, bool kNoise>
struct PauFormula {
  static constexpr bool kBins = false;
  PauSettings settings;
  const int64_t* seed;

  template <class Column>
  __device__ auto load(const Column& column) const {
    PauSettings mine = settings;
    if constexpr (kNoise) {
      const auto bits = static_cast<uint64_t>(*seed);
      mine.seed_low = static_cast<uint32_t>(bits);
      mine.seed_high = static_cast<uint32_t>(bits >> 32);
    }
    if constexpr (kUsual) {
      using Local = LocalRows<T, 5 + 4 + 2>;
      return Pau<Scalar<T>, 5, 4, kNoise, Local>{mine, Local::load(column)};
    } else {
      return Pau<Scalar<T>, -1, -1, kNoise, Column>{mine, column};
    }
  }
  template <class F>
  __device__ static T value(const F& f, T x, uint32_t index) {
    return f.forward(x, index);
  }
};

template <class T, class Use>
void with_pau(const PauSettings& settings, const OptionalTensor& seed, const Use& use) {
  if (settings.noise != 0)
    use(PauFormula<T, false, true>{settings, seed->const_data_ptr<int64_t>()});
  else if (settings.m == 5 && settings.n == 4)
    use(PauFormula<T, true, false>{settings, nullptr});
  else
    use(PauFormula<T, false, false>{settings, nullptr});
}

Tensor pau_cuda(const Tensor& x, const Tensor& numerator, const Tensor& denominator,
                const OptionalTensor& seed, double noise, c10::string_view version,
                int64_t channel_dim) {
  const PauArguments p(x, numerator, denominator, noise, version, channel_dim);
  check_seed(x, seed, noise);
  return run_forward(x, p.numbers(), channel_dim, [&](auto zero, const auto& use) {
    with_pau<decltype(zero)>(p.settings, seed, use);
  });
}

std::tuple<Tensor, Tensor, Tensor> pau_bwd_cuda(const Tensor& grad, const Tensor& x,
                                                const Tensor& numerator, const Tensor& denominator,
                                                const OptionalTensor& seed, double noise,
                                                c10::string_view version, int64_t channel_dim) {
  const PauArguments p(x, numerator, denominator, noise, version, channel_dim);
  check_seed(x, seed, noise);
  const auto [gx, sums] = run_backward(
      grad, x, p.numbers(), channel_dim, 0, p.entries(),
      [&](auto zero, const auto& use) { with_pau<decltype(zero)>(p.settings, seed, use); });
  return p.gradients(gx, sums);
}

}  // namespace
}  // namespace cuda
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CUDA, m) {
  m.impl("pau", mmact::cuda::pau_cuda);
  m.impl("pau_bwd", mmact::cuda::pau_bwd_cuda);
}
