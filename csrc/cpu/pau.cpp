// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::pau and its backward on the CPU. Schemas, shape functions and autograd are in
// mmact/ops/pau.py.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../pau_table.h"
#include "dispatch.h"

namespace mmact {
namespace {

using at::Tensor;

void run(PauRun kernel, const Tensor& x, const Task& task, const PauArguments& p,
         const OptionalTensor& seed) {
  PauSettings settings = p.settings;
  if (settings.noise != 0) {
    const auto bits = static_cast<uint64_t>(seed->item<int64_t>());
    settings.seed_low = static_cast<uint32_t>(bits);
    settings.seed_high = static_cast<uint32_t>(bits >> 32);
  }
  const Tensor rows = make_rows(x, p.numbers());
  const RowTable table{rows.const_data_ptr(), rows.size(1)};
  run_task(task, [&](int64_t begin, int64_t end) {
    kernel(storage_of(x), task, table, settings, begin, end);
  });
}

Tensor pau_cpu(const Tensor& x, const Tensor& numerator, const Tensor& denominator,
               const OptionalTensor& seed, double noise, c10::string_view version,
               int64_t channel_dim) {
  const PauArguments p(x, numerator, denominator, noise, version, channel_dim);
  check_seed(x, seed, noise);
  return run_forward(x, p.groups(), channel_dim, [&](const Task& task) {
    run(MMACT_SELECT_ISA(pau_kernels).forward, x, task, p, seed);
  });
}

std::tuple<Tensor, Tensor, Tensor> pau_bwd_cpu(const Tensor& grad, const Tensor& x,
                                               const Tensor& numerator, const Tensor& denominator,
                                               const OptionalTensor& seed, double noise,
                                               c10::string_view version, int64_t channel_dim) {
  const PauArguments p(x, numerator, denominator, noise, version, channel_dim);
  check_seed(x, seed, noise);
  const auto [gx, sums] = run_backward(
      grad, x, p.groups(), channel_dim, p.entries(),
      [&](const Task& task) { run(MMACT_SELECT_ISA(pau_kernels).backward, x, task, p, seed); });
  return p.gradients(gx, sums);
}

}  // namespace
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CPU, m) {
  m.impl("pau", mmact::pau_cpu);
  m.impl("pau_bwd", mmact::pau_bwd_cpu);
}
