// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::dyrelu, mmact::dyrelu_squeeze and their backwards on the CPU. Schemas, shape functions and
// autograd are in mmact/ops/dyrelu.py and mmact/ops/dyrelu_squeeze.py.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../dyrelu_samples.h"
#include "dispatch.h"

namespace mmact {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

at::TensorOptions arithmetic_of(const Tensor& x) {
  return at::TensorOptions().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

// The task without what it reads and writes.
SamplesTask make_samples_task(const Samples& samples) {
  constexpr int64_t kPixels = 2048, kRows = 128;  // a tile of any instruction set
  SamplesTask s{};
  Task& task = s.task;
  task.channels = samples.channels;
  task.outer = samples.channels_last ? samples.pixels : 1;
  task.inner = samples.channels_last ? 1 : samples.pixels;
  task.chunk = samples.channels_last ? kRows : kPixels;
  task.num_chunks = (samples.pixels + task.chunk - 1) / task.chunk;
  s.samples = samples.samples;
  s.columns = padded_channels(samples.channels);
  s.num_blocks = (samples.channels + SamplesTask::kBlock - 1) / SamplesTask::kBlock;
  task.channel_stride = s.samples * s.columns;
  return s;
}

// A table's numbers, (rows, samples, columns), from (rows, samples, channels).
Tensor make_sample_rows(const Tensor& x, const SamplesTask& s, const Tensor& numbers) {
  Tensor rows = at::zeros({numbers.size(0), s.samples, s.columns}, arithmetic_of(x));
  rows.narrow(2, 0, numbers.size(2)).copy_(numbers);
  return rows;
}

// Partial sums of a kernel, in double.
Tensor make_sums(SamplesTask& s, int64_t entries) {
  Tensor sums = at::zeros({s.task.num_chunks, entries, s.samples, s.columns}, at::kDouble);
  s.task.sums = sums.mutable_data_ptr<double>();
  return sums;
}

// (entries, samples, channels)
Tensor add_up(const SamplesTask& s, const Tensor& sums) {
  return sums.sum(0).narrow(2, 0, s.task.channels);
}

Tensor make_pixel_sums(const Tensor& x, SamplesTask& s, const Samples& samples) {
  Tensor sums = at::empty({s.num_blocks, samples.samples, samples.pixels}, arithmetic_of(x));
  s.pixel_sums = sums.mutable_data_ptr();
  return sums;
}

// (samples, pixels) from x's shape with one channel.
Tensor read_pixels(const Tensor& x, SamplesTask& s, const Tensor& t) {
  const Tensor pixels =
      t.reshape({x.size(0), -1}).to(arithmetic_of(x).dtype().toScalarType()).contiguous();
  s.pixels = pixels.const_data_ptr();
  return pixels;
}

// Runs kernel(table, begin, end) over the work items.
template <class Kernel>
void run_samples(const Tensor& x, const SamplesTask& s, const Tensor& rows, const Kernel& kernel) {
  const RowTable table{rows.const_data_ptr(), s.task.channel_stride};
  const int64_t items = s.samples * s.task.num_chunks * s.num_blocks;
  const int64_t grain = std::max<int64_t>(1, 32768 / (x.numel() / items + 1));
  at::parallel_for(0, items, grain,
                   [&](int64_t begin, int64_t end) { kernel(table, begin, end); });
}

Tensor dyrelu_cpu(const Tensor& x, const Tensor& slopes, const Tensor& intercepts,
                  const OptionalTensor& attention, int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  if (x.numel() == 0) return at::empty_like(x);
  const Arrangement arrangement(x, slopes.size(2), channel_dim);
  const Tensor from = arrangement.read(x), out = arrangement.empty();
  SamplesTask s = make_samples_task(arrangement.samples);
  const Tensor pixels = attention ? read_pixels(x, s, *attention) : Tensor();
  s.task.x = from.const_data_ptr();
  s.task.out = out.mutable_data_ptr();
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).forward;
  const int count = static_cast<int>(slopes.size(1));
  run_samples(x, s, make_sample_rows(x, s, dyrelu_numbers(slopes, intercepts)),
              [&](const RowTable& table, int64_t begin, int64_t end) {
                kernel(storage_of(x), s, table, count, begin, end);
              });
  return arrangement.result(out);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dyrelu_bwd_cpu(const Tensor& grad, const Tensor& x,
                                                          const Tensor& slopes,
                                                          const Tensor& intercepts,
                                                          const OptionalTensor& attention,
                                                          int64_t channel_dim) {
  check_dyrelu(x, slopes, intercepts, attention, channel_dim);
  check_grad(grad, x);
  const Tensor none = at::empty({0}, x.options());
  if (x.numel() == 0)
    return {at::empty_like(x), at::zeros_like(slopes), at::zeros_like(intercepts),
            attention ? at::zeros_like(*attention) : none};
  const Arrangement arrangement(x, slopes.size(2), channel_dim);
  const Tensor from = arrangement.read(x), from_grad = arrangement.read(grad);
  const Tensor out = arrangement.empty();
  const int count = static_cast<int>(slopes.size(1));
  SamplesTask s = make_samples_task(arrangement.samples);
  const Tensor pixels = attention ? read_pixels(x, s, *attention) : Tensor();
  const Tensor sums = make_sums(s, 2 * count);
  const Tensor pixel_sums = attention ? make_pixel_sums(x, s, arrangement.samples) : Tensor();
  s.task.x = from.const_data_ptr();
  s.task.grad = from_grad.const_data_ptr();
  s.task.out = out.mutable_data_ptr();
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).backward;
  run_samples(x, s, make_sample_rows(x, s, dyrelu_numbers(slopes, intercepts)),
              [&](const RowTable& table, int64_t begin, int64_t end) {
                kernel(storage_of(x), s, table, count, begin, end);
              });
  const auto [g_slopes, g_intercepts] = dyrelu_gradients(add_up(s, sums), slopes, intercepts);
  const Tensor g_attention =
      attention ? pixel_sums.sum(0).reshape(attention->sizes()).to(attention->scalar_type()) : none;
  return {arrangement.result(out), g_slopes, g_intercepts, g_attention};
}

std::tuple<Tensor, Tensor> dyrelu_squeeze_cpu(const Tensor& x, const OptionalTensor& weight,
                                              int64_t channel_dim) {
  check_squeeze(x, weight, channel_dim);
  const int64_t channels = x.size(channel_dim);
  if (x.numel() == 0)
    return {at::full({x.size(0), channels}, NAN, arithmetic_of(x)),
            weight ? at::zeros(one_channel(x, channel_dim), arithmetic_of(x))
                   : at::empty({0}, arithmetic_of(x))};
  const Arrangement arrangement(x, channels, channel_dim);
  const Samples& samples = arrangement.samples;
  const Tensor from = arrangement.read(x);
  SamplesTask s = make_samples_task(samples);
  s.task.x = from.const_data_ptr();
  const Tensor sums = make_sums(s, 1);
  const Tensor pixel_sums = weight ? make_pixel_sums(x, s, samples) : Tensor();
  const Tensor numbers = weight ? weight->expand({1, samples.samples, channels})
                                : at::zeros({1, samples.samples, channels}, arithmetic_of(x));
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).squeeze;
  run_samples(x, s, make_sample_rows(x, s, numbers),
              [&](const RowTable& table, int64_t begin, int64_t end) {
                kernel(storage_of(x), s, table, begin, end);
              });
  const Tensor mean = add_up(s, sums).select(0, 0).div(static_cast<double>(samples.pixels));
  return {mean.to(arithmetic_of(x).dtype().toScalarType()).contiguous(),
          weight ? pixel_sums.sum(0).reshape(one_channel(x, channel_dim))
                 : at::empty({0}, arithmetic_of(x))};
}

// Adds the gradient of x to grad_x; returns that of the weight, empty without one.
Tensor dyrelu_squeeze_bwd_cpu(Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                              const OptionalTensor& grad_logits, const OptionalTensor& weight,
                              int64_t channel_dim) {
  check_squeeze_bwd(grad_x, x, grad_mean, grad_logits, weight, channel_dim);
  const auto none = at::empty({0}, arithmetic_of(grad_x));
  if (grad_x.numel() == 0) return weight ? at::zeros_like(*weight) : none;
  const Arrangement arrangement(grad_x, grad_x.size(channel_dim), channel_dim);
  const Samples& samples = arrangement.samples;
  const Tensor out = arrangement.read(grad_x);
  const Tensor from = weight ? arrangement.read(*x) : out;
  SamplesTask s = make_samples_task(samples);
  const Tensor pixels = weight ? read_pixels(grad_x, s, *grad_logits) : Tensor();
  const Tensor sums = make_sums(s, 1);
  s.task.x = from.const_data_ptr();
  s.task.grad = out.const_data_ptr();
  s.task.out = out.mutable_data_ptr();
  const Tensor numbers = squeeze_numbers(grad_mean, weight, samples.pixels);
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).squeeze_backward;
  run_samples(grad_x, s, make_sample_rows(grad_x, s, numbers),
              [&](const RowTable& table, int64_t begin, int64_t end) {
                kernel(storage_of(grad_x), s, table, begin, end);
              });
  arrangement.write(out, grad_x);
  return weight ? add_up(s, sums).sum(at::IntArrayRef{0, 1}).to(weight->scalar_type()) : none;
}

}  // namespace
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CPU, m) {
  m.impl("dyrelu", mmact::dyrelu_cpu);
  m.impl("dyrelu_bwd", mmact::dyrelu_bwd_cpu);
  m.impl("dyrelu_squeeze", mmact::dyrelu_squeeze_cpu);
  m.impl("dyrelu_squeeze_bwd_", mmact::dyrelu_squeeze_bwd_cpu);
}
