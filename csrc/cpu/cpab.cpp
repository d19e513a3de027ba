// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::cpab, mmact::cpab_table and their backward on the CPU. Schemas, shape functions and
// autograd are in mmact/ops/cpab.py.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "../cpab_arguments.h"
#include "dispatch.h"

namespace mmact {
namespace {

using at::Tensor;

void run(CpabRun kernel, const Tensor& x, const Task& task, const CpabArguments& p) {
  Tensor rows = p.numbers(x);
  CpabNumbers numbers{nullptr, rows.size(1), 1};
  if (task.lane_is_channel()) {
    rows = make_rows(x, rows);
    numbers = {nullptr, 1, rows.size(1)};
  }
  numbers.numbers = rows.const_data_ptr();
  run_task(task, [&](int64_t begin, int64_t end) {
    kernel(storage_of(x), task, numbers, p.settings, begin, end);
  });
}

Tensor cpab_cpu(const Tensor& x, const Tensor& breakpoints, const Tensor& table,
                int64_t channel_dim, c10::string_view factor, double negative_slope) {
  const CpabArguments p(x, breakpoints, table, channel_dim, factor, negative_slope);
  return run_forward(x, p.groups(), channel_dim, [&](const Task& task) {
    run(MMACT_SELECT_ISA(cpab_kernels).forward, x, task, p);
  });
}

std::tuple<Tensor, Tensor> cpab_bwd_cpu(const Tensor& grad, const Tensor& x,
                                        const Tensor& breakpoints, const Tensor& table,
                                        int64_t channel_dim, c10::string_view factor,
                                        double negative_slope) {
  const CpabArguments p(x, breakpoints, table, channel_dim, factor, negative_slope);
  const auto [gx, sums] = run_backward(
      grad, x, p.groups(), channel_dim, p.entries(),
      [&](const Task& task) { run(MMACT_SELECT_ISA(cpab_kernels).backward, x, task, p); });
  return p.gradients(gx, sums);
}

// Calls work(group, scratch) for all groups, with scratch memory for each thread.
template <class Work>
void for_each_group(int64_t groups, const CpabDomain& domain, const Work& work) {
  at::parallel_for(0, groups, std::max<int64_t>(1, 256 / domain.cells),
                   [&](int64_t begin, int64_t end) {
                     std::vector<double> scratch(domain.scratch_size());
                     for (int64_t group = begin; group < end; ++group) work(group, scratch.data());
                   });
}

std::tuple<Tensor, Tensor> cpab_table_cpu(const Tensor& theta, double a, double b, bool affine,
                                          bool single) {
  const CpabDomain domain = cpab_domain(theta, a, b, affine, single);
  const Tensor velocities = theta.to(at::kDouble).contiguous();
  const int64_t groups = theta.size(0), count = 2 * domain.cells;
  const auto options = theta.options().dtype(at::kDouble);
  Tensor breakpoints = at::empty({groups, count}, options);
  Tensor table = at::empty({groups, count + 1, kCpabColumns}, options);
  const double* const from = velocities.const_data_ptr<double>();
  double* const edges = breakpoints.mutable_data_ptr<double>();
  double* const rows = table.mutable_data_ptr<double>();
  for_each_group(groups, domain, [&](int64_t group, double* scratch) {
    cpab_make_table(CpabAlone(), from + group * (domain.cells - 1), domain, scratch,
                    edges + group * count, rows + group * (count + 1) * kCpabColumns);
  });
  return {breakpoints, table};
}

Tensor cpab_table_bwd_cpu(const Tensor& grad, const Tensor& theta, double a, double b, bool affine,
                          bool single) {
  const CpabDomain domain = cpab_domain(theta, a, b, affine, single);
  check_cpab_table_gradient(grad, theta);
  const Tensor velocities = theta.to(at::kDouble).contiguous(), g_table = grad.contiguous();
  Tensor g_theta = at::empty_like(velocities);
  const double* const from = velocities.const_data_ptr<double>();
  const double* const g_rows = g_table.const_data_ptr<double>();
  double* const to = g_theta.mutable_data_ptr<double>();
  const int64_t inner = domain.cells - 1, size = (2 * domain.cells + 1) * kCpabColumns;
  for_each_group(theta.size(0), domain, [&](int64_t group, double* scratch) {
    cpab_theta_gradient(CpabAlone(), g_rows + group * size, from + group * inner, domain, scratch,
                        to + group * inner);
  });
  return g_theta.to(theta.scalar_type());
}

}  // namespace
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CPU, m) {
  m.impl("cpab", mmact::cpab_cpu);
  m.impl("cpab_bwd", mmact::cpab_bwd_cpu);
  m.impl("cpab_table", mmact::cpab_table_cpu);
  m.impl("cpab_table_bwd", mmact::cpab_table_bwd_cpu);
}
