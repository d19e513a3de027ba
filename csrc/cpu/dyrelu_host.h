// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From the tensors of a SamplesRun to the CPU's kernels.
#pragma once

#include "../ops/samples.h"
#include "host.h"

namespace mmact {

class CpuSamplesRun : public SamplesRun {
 public:
  CpuSamplesRun(const Tensor& x, int64_t groups, int64_t channel_dim, bool)
      : SamplesRun(x, groups, channel_dim) {
    constexpr int64_t kPixels = 2048, kRows = 128;  // a tile of any instruction set
    Task& task = task_.task;
    task.storage = storage_of(x);
    task.channels = samples_.channels;
    task.outer = samples_.channels_last ? samples_.pixels : 1;
    task.inner = samples_.channels_last ? 1 : samples_.pixels;
    task.chunk = samples_.channels_last ? kRows : kPixels;
    task.num_chunks = (samples_.pixels + task.chunk - 1) / task.chunk;
    task.channel_stride = padded_channels(samples_.channels);
    task_.samples = samples_.samples;
    blocks_ = blocks_of(SamplesTask::kBlock);
  }

  void sum(int64_t entries) {
    const Task& task = task_.task;
    sums_ =
        at::zeros({task.num_chunks, samples_.samples, entries, task.channel_stride}, at::kDouble);
  }
  void forward(const Tensor& coefficients, int count) {
    run_dyrelu(MMACT_SELECT_ISA(dyrelu_kernels).forward, coefficients, count);
  }
  void backward(const Tensor& coefficients, int count) {
    run_dyrelu(MMACT_SELECT_ISA(dyrelu_kernels).backward, coefficients, count);
  }
  // Returns the mean of each channel, (samples, channels).
  Tensor squeeze(const OptionalTensor& weight) {
    run_squeeze(MMACT_SELECT_ISA(dyrelu_kernels).squeeze, weight, {});
    return sums().select(1, 0).div(static_cast<double>(samples_.pixels)).to(arithmetic_type(x_));
  }
  void squeeze_backward(const OptionalTensor& weight, const Tensor& mean) {
    run_squeeze(MMACT_SELECT_ISA(dyrelu_kernels).squeeze_backward, weight, mean);
  }

 private:
  void run_dyrelu(DyreluRun kernel, const Tensor& coefficients, int count) {
    const Tensor table = rows(coefficients);
    run([&](int64_t begin, int64_t end) { kernel(task_, table_of(table), count, begin, end); });
  }
  void run_squeeze(SqueezeRun kernel, const OptionalTensor& weight, const OptionalTensor& mean) {
    const Tensor weights = weight ? rows(weight->view({1, 1, -1})) : Tensor();
    const Tensor means = mean ? rows(mean->unsqueeze(1)) : Tensor();
    run([&](int64_t begin, int64_t end) {
      kernel(task_, table_of(weights), table_of(means), begin, end);
    });
  }
  // Runs kernel(begin, end) over the work items.
  template <class Kernel>
  void run(const Kernel& kernel) {
    Task& task = task_.task;
    if (grad_.defined()) task.grad = grad_.const_data_ptr();
    task.x = x_in_.defined() ? x_in_.const_data_ptr() : task.grad;  // the latter not looked at
    if (out_.defined()) task.out = out_.mutable_data_ptr();
    if (sums_.defined()) task.sums = sums_.mutable_data_ptr<double>();
    if (pixels_.defined()) task_.pixels = pixels_.const_data_ptr();
    if (pixel_sums_.defined()) task_.pixel_sums = pixel_sums_.mutable_data_ptr();
    // Alone, a channel is read from end to end; several share the numbers of their pixels.
    const bool alone =
        !samples_.channels_last && task_.pixels == nullptr && task_.pixel_sums == nullptr;
    task_.block = alone ? 1 : SamplesTask::kBlock;
    task_.num_blocks = blocks_of(task_.block);
    const int64_t items = samples_.samples * task.num_chunks * task_.num_blocks;
    const int64_t grain = std::max<int64_t>(1, 32768 / (x_.numel() / items + 1));
    at::parallel_for(0, items, grain, kernel);
  }
  int64_t blocks_of(int64_t channels) const {
    return (samples_.channels + channels - 1) / channels;
  }
  // Numbers of the channels, (samples or 1, rows, channels), in whole vectors of channels where a
  // lane is one.
  Tensor rows(const Tensor& given) const {
    const Tensor t = numbers(given);
    const int64_t width = task_.task.channel_stride;
    if (!task_.task.lane_is_channel() || width == t.size(2)) return t;
    const Tensor wide = at::zeros({t.size(0), t.size(1), width}, t.options());
    wide.narrow(2, 0, t.size(2)).copy_(t);
    return wide;
  }
  static SampleTable table_of(const Tensor& t) {
    if (!t.defined()) return {};
    return {t.const_data_ptr(), t.size(0) == 1 ? 0 : t.stride(0), t.stride(1)};
  }

  SamplesTask task_{};
};

}  // namespace mmact
