// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing tensors whose coefficients belong to a sample, and the tensors of a run of
// their kernels.
#pragma once

#include <optional>
#include <vector>

#include "tensors.h"

namespace mmact {

// A dense tensor seen as (samples, channels, pixels), or (samples, pixels, channels) if
// channels_last. The channels are the groups that have coefficients of their own.
struct Samples {
  int64_t samples, channels, pixels;
  bool channels_last;

  int64_t size() const { return channels * pixels; }  // elements of a sample
};

// Returns how t's memory is seen so, or nothing if it cannot be.
inline std::optional<Samples> samples_in(const Tensor& t, int64_t groups, int64_t channel_dim) {
  const int64_t samples = t.size(0), size = t.numel() / samples;
  if (groups == 1 && t.size(channel_dim) > 1) {
    if (!t.is_non_overlapping_and_dense() || (samples > 1 && t.stride(0) != size)) return {};
    return Samples{samples, 1, size, false};
  }
  if (groups > 1 && t.movedim(channel_dim, -1).is_contiguous())
    return Samples{samples, groups, size / groups, true};
  if (t.movedim(channel_dim, 1).is_contiguous())
    return Samples{samples, groups, size / groups, false};
  return {};
}

// The strides in which kernels read and write tensors like x, which must not be empty.
class Arrangement {
 public:
  Samples samples;

  Arrangement(const Tensor& x, int64_t groups, int64_t channel_dim)
      : x_(x), like_(at::empty_like(x, x.options().device(at::kMeta))), channel_dim_(channel_dim) {
    auto found = samples_in(like_, groups, channel_dim);
    if (!found) {  // channels between other dimensions, or samples that are not apart
      moved_ = true;
      like_ = at::empty(x.movedim(channel_dim, 1).sizes(), like_.options());
      found = samples_in(like_, groups, 1);
    }
    samples = *found;
  }

  // t, or a copy, in the strides that kernels read.
  Tensor read(const Tensor& t) const {
    return with_strides_of(moved_ ? t.movedim(channel_dim_, 1) : t, like_);
  }
  // For the result of a kernel.
  Tensor empty() const { return at::empty_strided(like_.sizes(), like_.strides(), x_.options()); }
  // The result in the strides of at::empty_like(x).
  Tensor result(const Tensor& out) const {
    return moved_ ? at::empty_like(x_).copy_(out.movedim(1, channel_dim_)) : out;
  }
  // Makes a tensor equal to the result; nothing to do where the kernel wrote to it.
  void write(const Tensor& out, Tensor& to) const {
    if (!out.is_same(to)) to.copy_(moved_ ? out.movedim(1, channel_dim_) : out);
  }

 private:
  const Tensor& x_;
  Tensor like_;  // without memory
  int64_t channel_dim_;
  bool moved_ = false;
};

// A run of kernels, with the tensors that it reads and writes. A device's class derives from it: it
// says into how many chunks of pixels and blocks of channels the work is cut, and launches kernels.
class SamplesRun {
 public:
  SamplesRun(const Tensor& x, int64_t groups, int64_t channel_dim)
      : x_(x), arrangement_(x, groups, channel_dim), samples_(arrangement_.samples) {}

  void read_x(const Tensor& t) { x_in_ = arrangement_.read(t); }
  void read_grad(const Tensor& t) { grad_ = arrangement_.read(t); }
  void write_new() { out_ = arrangement_.empty(); }
  Tensor result() const { return arrangement_.result(out_); }
  // `t` is gradient and result in one.
  void add_to(const Tensor& t) { out_ = grad_ = arrangement_.read(t); }
  void write_to(Tensor& t) const { arrangement_.write(out_, t); }

  // x's shape with one channel.
  void read_pixels(const Tensor& t) { pixels_ = numbers(t.reshape({samples_.samples, -1})); }
  void sum_pixels() { pixel_sums_ = empty({blocks_, samples_.samples, samples_.pixels}); }
  // (samples, pixels)
  Tensor pixel_sums() const { return add_up(pixel_sums_); }
  // (samples, entries, channels)
  Tensor sums() const { return add_up(sums_).narrow(2, 0, samples_.channels); }

 protected:
  static Tensor add_up(const Tensor& t) { return t.size(0) == 1 ? t.select(0, 0) : t.sum(0); }
  // In the arithmetic type.
  Tensor empty(at::IntArrayRef sizes) const {
    return at::empty(sizes, x_.options().dtype(arithmetic_type(x_)));
  }
  Tensor numbers(const Tensor& t) const { return t.to(arithmetic_type(x_)).contiguous(); }

  const Tensor& x_;
  Arrangement arrangement_;
  Samples samples_;
  int64_t blocks_ = 0;
  Tensor x_in_, grad_, out_, pixels_, sums_, pixel_sums_;
};

}  // namespace mmact
