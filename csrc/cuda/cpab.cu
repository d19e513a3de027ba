// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::cpab, mmact::cpab_table and their backward on CUDA. Schemas, shape functions and autograd
// are in mmact/ops/cpab.py.
#include "../formulas/cpab.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../cpab_arguments.h"
#include "rows.cuh"
#include "scalar.h"

namespace mmact {
namespace cuda {
namespace {

using at::Tensor;

template <class T>
struct CpabMath;

template <>
struct CpabMath<float> {
  __device__ static float expm1_ratio(float v) { return v == 0 ? 1 : ::expm1f(v) / v; }
  __device__ static float log1p_ratio(float v) { return v == 0 ? 1 : ::log1pf(v) / v; }
  __device__ static float normal_pdf(float v) { return 0.398942280f * ::expf(-0.5f * v * v); }
  __device__ static float normal_cdf(float v) { return ::normcdff(v); }
};

template <>
struct CpabMath<double> {
  __device__ static double expm1_ratio(double v) { return v == 0 ? 1 : ::expm1(v) / v; }
  __device__ static double log1p_ratio(double v) { return v == 0 ? 1 : ::log1p(v) / v; }
  __device__ static double normal_pdf(double v) {
    return 0.3989422804014326779 * ::exp(-0.5 * v * v);
  }
  __device__ static double normal_cdf(double v) { return ::normcdf(v); }
};

template <class T>
struct CpabFormula {
  static constexpr bool kBins = true;
  CpabSettings settings;

  template <class Column>
  __device__ Cpab<Scalar<T>, CpabMath<T>, Column> load(const Column& column) const {
    const auto constants = [&](int number) {
      return column.from_row(settings.filled() + number * settings.segments());
    };
    return {settings, column, constants(0), constants(1), constants(2), constants(3), constants(4)};
  }
  template <class F>
  __device__ static T value(const F& f, T x, uint32_t) {
    return f.forward(x);
  }
};

Tensor cpab_cuda(const Tensor& x, const Tensor& breakpoints, const Tensor& table,
                 int64_t channel_dim, c10::string_view factor, double negative_slope) {
  const CpabArguments p(x, breakpoints, table, channel_dim, factor, negative_slope);
  return run_forward(x, p.numbers(x), channel_dim, [&](auto zero, const auto& use) {
    use(CpabFormula<decltype(zero)>{p.settings});
  });
}

std::tuple<Tensor, Tensor> cpab_bwd_cuda(const Tensor& grad, const Tensor& x,
                                         const Tensor& breakpoints, const Tensor& table,
                                         int64_t channel_dim, c10::string_view factor,
                                         double negative_slope) {
  const CpabArguments p(x, breakpoints, table, channel_dim, factor, negative_slope);
  const auto [gx, sums] = run_backward(
      grad, x, p.numbers(x), channel_dim, p.segments(), kCpabColumns - 1,
      [&](auto zero, const auto& use) { use(CpabFormula<decltype(zero)>{p.settings}); });
  return p.gradients(gx, sums);
}

// The threads of a block make the table of a group.
struct Block {
  template <class Work>
  __device__ void each(int n, Work work) const {
    for (int k = threadIdx.x; k < n; k += blockDim.x) work(k);
    __syncthreads();
  }
  template <class Work>
  __device__ void once(Work work) const {
    if (threadIdx.x == 0) work();
    __syncthreads();
  }
};

constexpr int kTableThreads = 64;

__global__ void __launch_bounds__(kTableThreads)
    table_kernel(const double* __restrict__ theta, const CpabDomain domain, double* scratch,
                 double* __restrict__ breakpoints, double* __restrict__ table) {
  const int64_t group = blockIdx.x, count = 2 * domain.cells;
  cpab_make_table(Block(), theta + group * (domain.cells - 1), domain,
                  scratch + group * domain.scratch_size(), breakpoints + group * count,
                  table + group * (count + 1) * kCpabColumns);
}

__global__ void __launch_bounds__(kTableThreads)
    theta_kernel(const double* __restrict__ g_table, const double* __restrict__ theta,
                 const CpabDomain domain, double* scratch, double* __restrict__ g_theta) {
  const int64_t group = blockIdx.x, inner = domain.cells - 1;
  cpab_theta_gradient(Block(), g_table + group * (2 * domain.cells + 1) * kCpabColumns,
                      theta + group * inner, domain, scratch + group * domain.scratch_size(),
                      g_theta + group * inner);
}

std::tuple<Tensor, Tensor> cpab_table_cuda(const Tensor& theta, double a, double b, bool affine,
                                           bool single) {
  const CpabDomain domain = cpab_domain(theta, a, b, affine, single);
  const c10::cuda::CUDAGuard guard(theta.device());
  const Tensor velocities = theta.to(at::kDouble).contiguous();
  const int64_t groups = theta.size(0), count = 2 * domain.cells;
  const Tensor scratch = at::empty({groups, domain.scratch_size()}, velocities.options());
  Tensor breakpoints = at::empty({groups, count}, velocities.options());
  Tensor table = at::empty({groups, count + 1, kCpabColumns}, velocities.options());
  launch_kernel(table_kernel, static_cast<unsigned>(groups), kTableThreads, 0,
                velocities.const_data_ptr<double>(), domain, scratch.mutable_data_ptr<double>(),
                breakpoints.mutable_data_ptr<double>(), table.mutable_data_ptr<double>());
  return {breakpoints, table};
}

Tensor cpab_table_bwd_cuda(const Tensor& grad, const Tensor& theta, double a, double b, bool affine,
                           bool single) {
  const CpabDomain domain = cpab_domain(theta, a, b, affine, single);
  check_cpab_table_gradient(grad, theta);
  const c10::cuda::CUDAGuard guard(theta.device());
  const Tensor velocities = theta.to(at::kDouble).contiguous(), g_table = grad.contiguous();
  const Tensor scratch = at::empty({theta.size(0), domain.scratch_size()}, velocities.options());
  Tensor g_theta = at::empty_like(velocities);
  launch_kernel(theta_kernel, static_cast<unsigned>(theta.size(0)), kTableThreads, 0,
                g_table.const_data_ptr<double>(), velocities.const_data_ptr<double>(), domain,
                scratch.mutable_data_ptr<double>(), g_theta.mutable_data_ptr<double>());
  return g_theta.to(theta.scalar_type());
}

}  // namespace
}  // namespace cuda
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CUDA, m) {
  m.impl("cpab", mmact::cuda::cpab_cuda);
  m.impl("cpab_bwd", mmact::cuda::cpab_bwd_cuda);
  m.impl("cpab_table", mmact::cuda::cpab_table_cuda);
  m.impl("cpab_table_bwd", mmact::cuda::cpab_table_bwd_cuda);
}
