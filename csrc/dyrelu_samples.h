// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What the CPU's and the GPU's mmact::dyrelu share: how x lies in memory, and the checks of
// arguments.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "checks.h"
#include "dense.h"
#include "formulas/max_affine.h"
#include "optional_tensor.h"

namespace mmact {

inline void check_squeeze(const at::Tensor& x, const OptionalTensor& weight, int64_t channel_dim) {
  constexpr const char* kOp = "dyrelu_squeeze";
  TORCH_CHECK(x.dim() >= 2 && 0 < channel_dim && channel_dim < x.dim(), kOp,
              ": x must have samples at dimension 0 and channels at channel_dim, got shape ",
              x.sizes(), " and channel_dim ", channel_dim);
  TORCH_CHECK(is_supported(x.scalar_type()), kOp,
              ": x must be floating-point of 16, 32 or 64 bits, got ", x.scalar_type());
  TORCH_CHECK(!weight || (weight->dim() == 1 && weight->size(0) == x.size(channel_dim) &&
                          weight->device() == x.device() && is_supported(weight->scalar_type())),
              kOp, ": weight must be floating-point of shape (", x.size(channel_dim), ") on ",
              x.device());
}

inline void check_squeeze_bwd(const at::Tensor& grad_x, const OptionalTensor& x,
                              const at::Tensor& grad_mean, const OptionalTensor& grad_logits,
                              const OptionalTensor& weight, int64_t channel_dim) {
  check_squeeze(grad_x, weight, channel_dim);
  if (x) check_grad(grad_x, *x);
  const int64_t channels = grad_x.size(channel_dim);
  TORCH_CHECK(!weight || (x && grad_logits && grad_logits->numel() * channels == grad_x.numel()),
              "dyrelu_squeeze: a weight needs x and grad_logits");
  TORCH_CHECK(
      grad_mean.dim() == 2 && grad_mean.size(0) == grad_x.size(0) && grad_mean.size(1) == channels,
      "dyrelu_squeeze: grad_mean must have shape (", grad_x.size(0), ", ", channels, "), got ",
      grad_mean.sizes());
}

// Returns K.
inline int check_dyrelu(const at::Tensor& x, const at::Tensor& coefficients,
                        const OptionalTensor& attention, int64_t channel_dim) {
  constexpr const char* kOp = "dyrelu";
  TORCH_CHECK(x.dim() >= 2 && 0 < channel_dim && channel_dim < x.dim(), kOp,
              ": x must have samples at dimension 0 and channels at channel_dim, got shape ",
              x.sizes(), " and channel_dim ", channel_dim);
  const int64_t samples = x.size(0), channels = x.size(channel_dim), groups = coefficients.size(-1);
  TORCH_CHECK(coefficients.dim() == 3 && coefficients.size(0) == samples &&
                  coefficients.size(1) >= 2 && coefficients.size(1) % 2 == 0 &&
                  coefficients.size(1) <= 2 * kMaxFunctions &&
                  (groups == channels || (groups == 1 && !attention)),
              kOp, ": coefficients must have shape (", samples, ", 2 K, ", channels, " or 1), got ",
              coefficients.sizes());
  TORCH_CHECK(is_supported(x.scalar_type()), kOp,
              ": x must be floating-point of 16, 32 or 64 bits, got ", x.scalar_type());
  const auto check_like = [&](const char* name, const at::Tensor& t) {
    TORCH_CHECK(t.device() == x.device() && is_supported(t.scalar_type()), kOp, ": ", name,
                " must be floating-point of 16, 32 or 64 bits on ", x.device(), ", got ",
                t.scalar_type(), " on ", t.device());
  };
  check_like("coefficients", coefficients);
  if (attention) {
    check_like("attention", *attention);
    TORCH_CHECK(attention->dim() == x.dim(), kOp, ": attention must have ", x.dim(),
                " dimensions, got ", attention->dim());
    for (int64_t d = 0; d < x.dim(); ++d)
      TORCH_CHECK(attention->size(d) == (d == channel_dim ? 1 : x.size(d)), kOp,
                  ": attention must have the shape of x with one channel, got ",
                  attention->sizes());
  }
  return static_cast<int>(coefficients.size(1) / 2);
}

// A dense tensor seen as (samples, channels, pixels), or (samples, pixels, channels) if
// channels_last. The channels are the groups that have coefficients of their own.
struct Samples {
  int64_t samples, channels, pixels;
  bool channels_last;

  int64_t size() const { return channels * pixels; }  // elements of a sample
};

// How t's memory is seen so; nothing if it cannot be.
inline std::optional<Samples> samples_in(const at::Tensor& t, int64_t groups, int64_t channel_dim) {
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

// How kernels read and write tensors like x, which must not be empty.
class Arrangement {
 public:
  Samples samples;

  Arrangement(const at::Tensor& x, int64_t groups, int64_t channel_dim)
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
  at::Tensor read(const at::Tensor& t) const {
    return with_strides_of(moved_ ? t.movedim(channel_dim_, 1) : t, like_);
  }
  // For the result of a kernel.
  at::Tensor empty() const {
    return at::empty_strided(like_.sizes(), like_.strides(), x_.options());
  }
  // The result in the strides of at::empty_like(x).
  at::Tensor result(const at::Tensor& out) const {
    return moved_ ? at::empty_like(x_).copy_(out.movedim(1, channel_dim_)) : out;
  }
  // Makes a tensor equal to the result; nothing to do where the kernel wrote to it.
  void write(const at::Tensor& out, at::Tensor& to) const {
    if (!out.is_same(to)) to.copy_(moved_ ? out.movedim(1, channel_dim_) : out);
  }

 private:
  const at::Tensor& x_;
  at::Tensor like_;  // without memory
  int64_t channel_dim_;
  bool moved_ = false;
};

inline std::vector<int64_t> one_channel(const at::Tensor& x, int64_t channel_dim) {
  auto sizes = x.sizes().vec();
  sizes[channel_dim] = 1;
  return sizes;
}

}  // namespace mmact
