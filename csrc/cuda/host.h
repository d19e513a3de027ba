// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From tensors to launches: what every elementwise op does on CUDA around its kernels.
#pragma once

#include <c10/cuda/CUDAGuard.h>

#include "../ops/norm.h"
#include "../ops/tensors.h"
#include "plan.h"

namespace mmact {
namespace cuda {

// The kernels' launches, each built in a file of its own: for the storage type Raw in
// kernels_TYPE.cu, the tables and the parameters' gradients in tables.cu.
template <class Raw, class Settings>
void launch_forward(const Plan& plan, const Norm& norm, const Settings& settings, const void* table,
                    const void* x, void* y);
template <class Raw, class Settings>
void launch_backward(const Plan& plan, const Norm& norm, const Settings& settings,
                     const void* table, const void* x, const void* grad, void* gx, double* partial);
// Fills the table (rows, groups) of float, or double.
template <class Settings>
void launch_table(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                  int64_t groups, int rows, void* table, bool in_double);
// Writes to the sums.
template <class Settings>
void launch_gradients(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                      const Sums& sums, const SlotsOf<Settings::kParameters>& gradients);

// Calls launch(Raw()) with the storage type of x.
template <class Launch>
void with_storage(const Tensor& x, Launch launch) {
  switch (storage_of(x)) {
    case Storage::kHalf:
      return launch(at::Half());
    case Storage::kBFloat16:
      return launch(at::BFloat16());
    case Storage::kFloat:
      return launch(float());
    case Storage::kDouble:
      return launch(double());
  }
}

// The table of all groups: `rows` by groups. Backward needs the first rows alone, but loads what
// forward does: there is memory for all of them.
template <class Description>
Tensor make_table(const Description& op, const Tensor& x, int rows) {
  TORCH_CHECK(op.groups <= 1 << 30, Description::kName,
              ": too many groups of channels: ", op.groups);
  const Tensor table =
      at::empty({op.settings.rows(), op.groups}, x.options().dtype(arithmetic_type(x)));
  launch_table(op.settings, ValuesOf(op.parameters), op.groups, rows, table.mutable_data_ptr(),
               table.scalar_type() == at::kDouble);
  return table;
}

inline bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kGroupBytes == 0;
}

inline bool is_aligned(const Tensor& t) { return is_aligned(t.const_data_ptr()); }

}  // namespace cuda

// A norm as kernels take it (norm.cu). Rows of `numbers`: scale, shift, center, and the factor of
// backward's second pass.
struct CudaNorm {
  cuda::Norm norm{};
  Tensor numbers;     // (4, C)
  Tensor partial;     // of backward
  cuda::Sums sums{};  // which these are

  CudaNorm(const NormOf& of, const Tensor& x);
  // After backward: writes the gradients of weight and bias, if they are defined, and from that of
  // z, if it is defined, the gradient of x.
  void finish(const NormOf& of, const Tensor& gz, const Tensor& x, Tensor& gx,
              const Tensor& g_weight, const Tensor& g_bias);
  // Adds factor * (x - center) + shift, of vectors (C,), to g. All are dense, with g's strides.
  static void add_centered(Tensor& g, const Tensor& x, const Tensor& center, const Tensor& factor,
                           const Tensor& shift);
  // Mean and variance of each channel of a dense x, and what BatchNorm keeps of them.
  static void statistics(const Tensor& x, const OptionalTensor& running_mean,
                         const OptionalTensor& running_var, double momentum, Tensor& mean,
                         Tensor& var);

  int64_t channels() const { return numbers.size(1); }
  bool is_aligned() const {
    return cuda::is_aligned(norm.residual) && cuda::is_aligned(norm.grad_residual);
  }
};

// Runs the kernels of an elementwise op on dense tensors of the same strides, which are not empty.
struct CudaDevice {
  using DeviceNorm = CudaNorm;

  template <class Description>
  static cuda::Plan plan(const Description& op, const Tensor& x, bool aligned, int64_t rows,
                         int64_t bins, int64_t terms, const CudaNorm* norm) {
    if (norm == nullptr)
      return cuda::make_plan(x, op.groups, op.channel_dim, aligned, rows, bins, terms);
    const int64_t channels = norm->channels();
    return cuda::make_plan(x, channels, 1, aligned && norm->is_aligned(), rows, bins, terms,
                           channels / op.groups);
  }

  template <class Description>
  static void forward(const Description& op, const Tensor& x, Tensor& y, CudaNorm* norm = nullptr) {
    const c10::cuda::CUDAGuard guard(x.device());
    const int rows = op.settings.rows();
    const Tensor table = cuda::make_table(op, x, rows);
    const bool aligned = cuda::is_aligned(x) && cuda::is_aligned(y);
    const cuda::Plan plan = CudaDevice::plan(op, x, aligned, rows, 0, 0, norm);
    cuda::with_storage(x, [&](auto raw) {
      cuda::launch_forward<decltype(raw)>(plan, norm == nullptr ? cuda::Norm{} : norm->norm,
                                          op.settings, table.const_data_ptr(), x.const_data_ptr(),
                                          y.mutable_data_ptr());
    });
  }

  // Writes the gradients of x and, where g has a tensor for them, of the parameters.
  template <class Description, size_t n>
  static void backward(const Description& op, const Tensor& grad, const Tensor& x, Tensor& gx,
                       const std::array<Tensor, n>& g, CudaNorm* norm = nullptr,
                       Tensor* g_residual = nullptr) {
    using Settings = typename Description::Settings;
    constexpr bool kBins = Settings::kTerms > 0;
    const c10::cuda::CUDAGuard guard(x.device());
    const int rows = op.settings.backward_rows();
    const Tensor table = cuda::make_table(op, x, rows);
    const int64_t entries = op.settings.entries();
    const int64_t terms = kBins ? Settings::kTerms : entries;
    if (norm != nullptr) {
      norm->norm.constant = g_residual != nullptr;
      if (norm->norm.constant && norm->norm.residual != nullptr)
        norm->norm.grad_residual = g_residual->mutable_data_ptr();
    }
    const bool aligned = cuda::is_aligned(x) && cuda::is_aligned(grad) && cuda::is_aligned(gx);
    const cuda::Plan plan = CudaDevice::plan(op, x, aligned, rows, entries / terms, terms, norm);
    const int64_t all = entries + (norm == nullptr ? 0 : cuda::Sums::kOfNorm);
    const Tensor partial =
        at::empty({plan.num_chunks, all, plan.task.channels}, x.options().dtype(at::kDouble));
    const cuda::Sums sums{partial.mutable_data_ptr<double>(), plan.num_chunks, all,
                          plan.task.channels, plan.task.per_column};
    cuda::with_storage(x, [&](auto raw) {
      cuda::launch_backward<decltype(raw)>(
          plan, norm == nullptr ? cuda::Norm{} : norm->norm, op.settings, table.const_data_ptr(),
          x.const_data_ptr(), grad.const_data_ptr(), gx.mutable_data_ptr(), sums.partial);
    });
    cuda::launch_gradients(op.settings, ValuesOf(op.parameters), sums, SlotsOf(g));
    if (norm == nullptr) return;
    norm->partial = partial;
    norm->sums = sums;
  }

  // Makes the tables of CPAB, or their gradients, for groups that `theta` (G, N - 1) has rows for.
  template <class Work>
  static void for_each_group(const Work& work, const Tensor& theta);
};

}  // namespace mmact
