// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From the tensors of a SamplesRun to the CUDA kernels, which dyrelu.cu launches.
#pragma once

#include <c10/cuda/CUDAGuard.h>

#include "../ops/samples.h"

namespace mmact {
namespace cuda {
struct SamplesTask;
}

class CudaSamplesRun : public SamplesRun {
 public:
  CudaSamplesRun(const Tensor& x, int64_t groups, int64_t channel_dim, bool pixel_sums);

  void sum(int64_t entries);
  void forward(const Tensor& coefficients, int count);
  void backward(const Tensor& coefficients, int count);
  // Returns the mean of each channel, (samples, channels).
  Tensor squeeze(const OptionalTensor& weight);
  void squeeze_backward(const OptionalTensor& weight, const Tensor& mean);

 private:
  cuda::SamplesTask task() const;
  template <class WithFormula>
  void run(WithFormula with_formula) const;
  template <template <class, int, bool> class Formula>
  void run_dyrelu(const Tensor& coefficients, int count) const;
  template <template <class, bool> class Formula>
  void run_squeeze(const OptionalTensor& weight, const OptionalTensor& mean) const;

  c10::cuda::CUDAGuard guard_;
  bool pixel_sums_wanted_;
};

}  // namespace mmact
