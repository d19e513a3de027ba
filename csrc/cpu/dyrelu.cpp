// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::dyrelu and its backward on the CPU. Schemas, shape functions and autograd are in
// mmact/ops/dyrelu.py.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../dyrelu_samples.h"
#include "dispatch.h"

namespace mmact {
namespace {

using at::Tensor;

at::ScalarType arithmetic_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The task without what it reads and writes.
DyreluTask make_dyrelu_task(const Samples& s, int functions) {
  constexpr int64_t kPixels = 2048, kRows = 128;  // a tile of any instruction set
  DyreluTask d{};
  Task& task = d.task;
  task.channels = s.channels;
  task.outer = s.channels_last ? s.pixels : 1;
  task.inner = s.channels_last ? 1 : s.pixels;
  task.chunk = s.channels_last ? kRows : kPixels;
  task.num_chunks = (s.pixels + task.chunk - 1) / task.chunk;
  d.columns = padded_channels(s.channels);
  task.channel_stride = s.samples * d.columns;
  d.samples = s.samples;
  d.num_blocks = (s.channels + DyreluTask::kBlock - 1) / DyreluTask::kBlock;
  d.functions = functions;
  return d;
}

// Runs a kernel; `numbers` is (2 K, samples, channels).
void run(DyreluRun kernel, const Tensor& x, const DyreluTask& d, const Tensor& numbers) {
  const Tensor rows = at::zeros({numbers.size(0), numbers.size(1), d.columns},
                                at::TensorOptions().dtype(arithmetic_type(x)));
  rows.narrow(2, 0, numbers.size(2)).copy_(numbers);
  const RowTable table{rows.const_data_ptr(), d.task.channel_stride};
  const int64_t items = d.samples * d.task.num_chunks * d.num_blocks;
  const int64_t per_item = x.numel() / items + 1;
  at::parallel_for(0, items, std::max<int64_t>(1, 32768 / per_item),
                   [&](int64_t begin, int64_t end) {
                     kernel(storage_of(x), d, table, begin, end);
                   });
}

// (samples, pixels) in the arithmetic type of x; undefined without attention.
Tensor dense_attention(const Tensor& x, const std::optional<Tensor>& attention) {
  if (!attention) return {};
  return attention->reshape({x.size(0), -1}).to(arithmetic_type(x)).contiguous();
}

Tensor dyrelu_cpu(const Tensor& x, const Tensor& slopes, const Tensor& intercepts,
                  const std::optional<Tensor>& attention, int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  if (x.numel() == 0) return at::empty_like(x);
  Arrangement arrangement(x, slopes.size(2), channel_dim);
  const Tensor from = arrangement.read(x), pixels = dense_attention(x, attention);
  DyreluTask d = make_dyrelu_task(arrangement.samples, static_cast<int>(slopes.size(1)));
  d.task.x = from.const_data_ptr();
  d.task.out = arrangement.out().mutable_data_ptr();
  if (attention) d.attention = pixels.const_data_ptr();
  run(MMACT_SELECT_ISA(dyrelu_kernels).forward, x, d, dyrelu_numbers(slopes, intercepts));
  return arrangement.finish();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dyrelu_bwd_cpu(const Tensor& grad, const Tensor& x,
                                                          const Tensor& slopes,
                                                          const Tensor& intercepts,
                                                          const std::optional<Tensor>& attention,
                                                          int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  check_grad(grad, x);
  if (x.numel() == 0)
    return {at::empty_like(x), at::zeros(slopes.sizes(), slopes.options()),
            at::zeros(intercepts.sizes(), intercepts.options()),
            attention ? at::zeros(attention->sizes(), attention->options())
                      : at::empty({0}, x.options())};
  Arrangement arrangement(x, slopes.size(2), channel_dim);
  const Samples& s = arrangement.samples;
  const Tensor from = arrangement.read(x), from_grad = arrangement.read(grad);
  const Tensor pixels = dense_attention(x, attention);
  DyreluTask d = make_dyrelu_task(s, static_cast<int>(slopes.size(1)));
  const Tensor sums = at::zeros({d.task.num_chunks, 2 * slopes.size(1), s.samples, d.columns},
                                at::TensorOptions().dtype(at::kDouble));
  d.task.x = from.const_data_ptr();
  d.task.grad = from_grad.const_data_ptr();
  d.task.out = arrangement.out().mutable_data_ptr();
  d.task.sums = sums.mutable_data_ptr<double>();
  Tensor pixel_sums;
  if (attention) {
    pixel_sums = at::empty({d.num_blocks, s.samples, s.pixels}, pixels.options());
    d.attention = pixels.const_data_ptr();
    d.grad_attention = pixel_sums.mutable_data_ptr();
  }
  run(MMACT_SELECT_ISA(dyrelu_kernels).backward, x, d, dyrelu_numbers(slopes, intercepts));
  const auto [g_slopes, g_intercepts] =
      dyrelu_gradients(sums.sum(0).narrow(2, 0, s.channels), slopes, intercepts);
  const Tensor g_attention =
      attention ? pixel_sums.sum(0).reshape(attention->sizes()).to(attention->scalar_type())
                : at::empty({0}, x.options());
  return {arrangement.finish(), g_slopes, g_intercepts, g_attention};
}

}  // namespace
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CPU, m) {
  m.impl("dyrelu", mmact::dyrelu_cpu);
  m.impl("dyrelu_bwd", mmact::dyrelu_bwd_cpu);
}
