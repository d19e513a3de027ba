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

at::ScalarType arithmetic_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor empty_arithmetic(const Tensor& x, at::IntArrayRef sizes) {
  return at::empty(sizes, at::TensorOptions().dtype(arithmetic_type(x)));
}

// A task with the tensors that it reads and writes.
class Run {
 public:
  Run(const Tensor& x, int64_t groups, int64_t channel_dim)
      : x_(x), arrangement_(x, groups, channel_dim), samples_(arrangement_.samples) {
    constexpr int64_t kPixels = 2048, kRows = 128;  // a tile of any instruction set
    Task& task = task_.task;
    task.channels = samples_.channels;
    task.outer = samples_.channels_last ? samples_.pixels : 1;
    task.inner = samples_.channels_last ? 1 : samples_.pixels;
    task.chunk = samples_.channels_last ? kRows : kPixels;
    task.num_chunks = (samples_.pixels + task.chunk - 1) / task.chunk;
    task.channel_stride = padded_channels(samples_.channels);
    task_.samples = samples_.samples;
    task_.num_blocks = (samples_.channels + SamplesTask::kBlock - 1) / SamplesTask::kBlock;
  }

  const SamplesTask& task() const { return task_; }
  const Samples& samples() const { return samples_; }

  void read_x(const Tensor& t) { task_.task.x = keep(arrangement_.read(t)).const_data_ptr(); }
  void read_grad(const Tensor& t) { task_.task.grad = keep(arrangement_.read(t)).const_data_ptr(); }
  void write_new() {
    out_ = arrangement_.empty();
    task_.task.out = out_.mutable_data_ptr();
  }
  Tensor result() const { return arrangement_.result(out_); }
  // `t` is gradient and result in one.
  void add_to(const Tensor& t) {
    out_ = arrangement_.read(t);
    task_.task.grad = task_.task.out = out_.mutable_data_ptr();
    if (task_.task.x == nullptr) task_.task.x = task_.task.grad;  // not looked at
  }
  void write_to(Tensor& t) const { arrangement_.write(out_, t); }

  // x's shape with one channel.
  void read_pixels(const Tensor& t) {
    task_.pixels = keep(t.reshape({samples_.samples, -1}).to(arithmetic_type(x_)).contiguous())
                       .const_data_ptr();
  }
  // Numbers of the channels, (samples or 1, rows, channels).
  SampleTable table(const Tensor& numbers) {
    Tensor t = numbers.to(arithmetic_type(x_)).contiguous();
    const int64_t width = task_.task.channel_stride;
    if (task_.task.lane_is_channel() && width != t.size(2)) {
      const Tensor wide = at::zeros({t.size(0), t.size(1), width}, t.options());
      wide.narrow(2, 0, t.size(2)).copy_(t);
      t = wide;
    }
    return {keep(t).const_data_ptr(), t.size(0) == 1 ? 0 : t.stride(0), t.stride(1)};
  }
  void sum(int64_t entries) {
    sums_ = at::zeros({task_.task.num_chunks, samples_.samples, entries, task_.task.channel_stride},
                      at::kDouble);
    task_.task.sums = sums_.mutable_data_ptr<double>();
  }
  void sum_pixels() {
    pixel_sums_ = empty_arithmetic(x_, {task_.num_blocks, samples_.samples, samples_.pixels});
    task_.pixel_sums = pixel_sums_.mutable_data_ptr();
  }
  // (samples, entries, channels), in double
  Tensor sums() const {
    const Tensor total = sums_.size(0) == 1 ? sums_.select(0, 0) : sums_.sum(0);
    return total.narrow(2, 0, samples_.channels);
  }
  // (samples, pixels)
  Tensor pixel_sums() const {
    return pixel_sums_.size(0) == 1 ? pixel_sums_.select(0, 0) : pixel_sums_.sum(0);
  }

  // Runs kernel(storage, begin, end) over the work items.
  template <class Kernel>
  void operator()(const Kernel& kernel) const {
    const int64_t items = samples_.samples * task_.task.num_chunks * task_.num_blocks;
    const int64_t grain = std::max<int64_t>(1, 32768 / (x_.numel() / items + 1));
    at::parallel_for(0, items, grain,
                     [&](int64_t begin, int64_t end) { kernel(storage_of(x_), begin, end); });
  }

 private:
  const Tensor& keep(const Tensor& t) {
    kept_.push_back(t);
    return kept_.back();
  }

  const Tensor& x_;
  Arrangement arrangement_;
  Samples samples_;
  SamplesTask task_{};
  Tensor out_, sums_, pixel_sums_;
  std::vector<Tensor> kept_;
};

Tensor dyrelu_cpu(const Tensor& x, const Tensor& coefficients, const OptionalTensor& attention,
                  int64_t channel_dim) {
  const int count = check_dyrelu(x, coefficients, attention, channel_dim);
  if (x.numel() == 0) return at::empty_like(x);
  Run run(x, coefficients.size(2), channel_dim);
  run.read_x(x);
  run.write_new();
  if (attention) run.read_pixels(*attention);
  const SampleTable table = run.table(coefficients);
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).forward;
  run([&](Storage storage, int64_t begin, int64_t end) {
    kernel(storage, run.task(), table, count, begin, end);
  });
  return run.result();
}

std::tuple<Tensor, Tensor, Tensor> dyrelu_bwd_cpu(const Tensor& grad, const Tensor& x,
                                                  const Tensor& coefficients,
                                                  const OptionalTensor& attention,
                                                  int64_t channel_dim) {
  const int count = check_dyrelu(x, coefficients, attention, channel_dim);
  check_grad(grad, x);
  if (x.numel() == 0)
    return {at::empty_like(x), at::zeros(coefficients.sizes(), coefficients.options()),
            attention ? at::zeros(attention->sizes(), attention->options())
                      : at::empty({0}, x.options())};
  Run run(x, coefficients.size(2), channel_dim);
  run.read_x(x);
  run.read_grad(grad);
  run.write_new();
  run.sum(2 * count);
  if (attention) {
    run.read_pixels(*attention);
    run.sum_pixels();
  }
  const SampleTable table = run.table(coefficients);
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).backward;
  run([&](Storage storage, int64_t begin, int64_t end) {
    kernel(storage, run.task(), table, count, begin, end);
  });
  return {run.result(), run.sums().to(coefficients.scalar_type()).contiguous(),
          attention ? run.pixel_sums().reshape(attention->sizes()).to(attention->scalar_type())
                    : at::empty({0}, x.options())};
}

std::tuple<Tensor, Tensor> dyrelu_squeeze_cpu(const Tensor& x, const OptionalTensor& weight,
                                              int64_t channel_dim) {
  check_squeeze(x, weight, channel_dim);
  const int64_t channels = x.size(channel_dim);
  const Tensor none = empty_arithmetic(x, {0});
  if (x.numel() == 0)
    return {empty_arithmetic(x, {x.size(0), channels}).fill_(NAN),
            weight ? empty_arithmetic(x, one_channel(x, channel_dim)).zero_() : none};
  Run run(x, channels, channel_dim);
  run.read_x(x);
  run.sum(1);
  SampleTable table{};
  if (weight) {
    run.sum_pixels();
    table = run.table(weight->view({1, 1, channels}));
  }
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).squeeze;
  run([&](Storage storage, int64_t begin, int64_t end) {
    kernel(storage, run.task(), table, {}, begin, end);
  });
  const Tensor mean = run.sums().select(1, 0).div(static_cast<double>(run.samples().pixels));
  return {mean.to(arithmetic_type(x)).contiguous(),
          weight ? run.pixel_sums().reshape(one_channel(x, channel_dim)) : none};
}

// Adds the gradient of x to grad_x; returns that of the weight, empty without one.
Tensor dyrelu_squeeze_bwd_cpu(Tensor& grad_x, const OptionalTensor& x, const Tensor& grad_mean,
                              const OptionalTensor& grad_logits, const OptionalTensor& weight,
                              int64_t channel_dim) {
  check_squeeze_bwd(grad_x, x, grad_mean, grad_logits, weight, channel_dim);
  const Tensor none = empty_arithmetic(grad_x, {0});
  if (grad_x.numel() == 0) return weight ? at::zeros_like(*weight) : none;
  const int64_t channels = grad_x.size(channel_dim);
  Run run(grad_x, channels, channel_dim);
  SampleTable table{};
  if (weight) {
    run.read_x(*x);
    run.read_pixels(*grad_logits);
    run.sum(1);
    table = run.table(weight->view({1, 1, channels}));
  }
  run.add_to(grad_x);
  const SampleTable means = run.table(grad_mean.unsqueeze(1));
  const auto kernel = MMACT_SELECT_ISA(dyrelu_kernels).squeeze_backward;
  run([&](Storage storage, int64_t begin, int64_t end) {
    kernel(storage, run.task(), table, means, begin, end);
  });
  run.write_to(grad_x);
  return weight ? run.sums().sum(at::IntArrayRef{0, 1}).to(weight->scalar_type()) : none;
}

}  // namespace
}  // namespace mmact

TORCH_LIBRARY_IMPL(mmact, CPU, m) {
  m.impl("dyrelu", mmact::dyrelu_cpu);
  m.impl("dyrelu_bwd", mmact::dyrelu_bwd_cpu);
  m.impl("dyrelu_squeeze", mmact::dyrelu_squeeze_cpu);
  m.impl("dyrelu_squeeze_bwd_", mmact::dyrelu_squeeze_bwd_cpu);
}
