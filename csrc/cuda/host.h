// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From tensors to launches: what every elementwise op does on CUDA around its kernels.
#pragma once

#include <c10/cuda/CUDAGuard.h>

#include "../ops/tensors.h"
#include "plan.h"

namespace mmact {
namespace cuda {

// The kernels' launches, each built in a file of its own: for the storage type Raw in
// kernels_TYPE.cu, the tables and the parameters' gradients in tables.cu.
template <class Raw, class Settings>
void launch_forward(const Plan& plan, const Settings& settings, const void* table, const void* x,
                    void* y);
template <class Raw, class Settings>
void launch_backward(const Plan& plan, const Settings& settings, const void* table, const void* x,
                     const void* grad, void* gx, double* partial);
// Fills the table (rows, groups) of float, or double.
template <class Settings>
void launch_table(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                  int64_t groups, int rows, void* table, bool in_double);
// `partial`: sums (num_chunks, entries, groups), to which this writes.
template <class Settings>
void launch_gradients(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                      int64_t groups, int64_t num_chunks, double* partial,
                      const SlotsOf<Settings::kParameters>& gradients);

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

// The table of all groups, (rows, groups).
template <class Description>
Tensor make_table(const Description& op, const Tensor& x, int rows) {
  TORCH_CHECK(op.groups <= 1 << 30, Description::kName,
              ": too many groups of channels: ", op.groups);
  const Tensor table = at::empty({rows, op.groups}, x.options().dtype(arithmetic_type(x)));
  launch_table(op.settings, ValuesOf(op.parameters), op.groups, rows, table.mutable_data_ptr(),
               table.scalar_type() == at::kDouble);
  return table;
}

inline bool is_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kGroupBytes == 0;
}

}  // namespace cuda

// Runs the kernels of an elementwise op on dense tensors of the same strides, which are not empty.
struct CudaDevice {
  static constexpr bool kHasNorm = false;

  template <class Description>
  static void forward(const Description& op, const Tensor& x, Tensor& y) {
    const c10::cuda::CUDAGuard guard(x.device());
    const Tensor table = cuda::make_table(op, x, op.settings.rows());
    const cuda::Plan plan =
        cuda::make_plan(x, op.groups, op.channel_dim, cuda::is_aligned(x) && cuda::is_aligned(y),
                        table.size(0), 0, 0);
    cuda::with_storage(x, [&](auto raw) {
      cuda::launch_forward<decltype(raw)>(plan, op.settings, table.const_data_ptr(),
                                          x.const_data_ptr(), y.mutable_data_ptr());
    });
  }

  // Writes the gradients of x and, where g has a tensor for them, of the parameters.
  template <class Description, size_t n>
  static void backward(const Description& op, const Tensor& grad, const Tensor& x, Tensor& gx,
                       const std::array<Tensor, n>& g) {
    using Settings = typename Description::Settings;
    constexpr bool kBins = Settings::kTerms > 0;
    const c10::cuda::CUDAGuard guard(x.device());
    const Tensor table = cuda::make_table(op, x, op.settings.backward_rows());
    const int64_t entries = op.settings.entries();
    const int64_t terms = kBins ? Settings::kTerms : entries;
    const cuda::Plan plan =
        cuda::make_plan(x, op.groups, op.channel_dim,
                        cuda::is_aligned(x) && cuda::is_aligned(grad) && cuda::is_aligned(gx),
                        table.size(0), entries / terms, terms);
    const Tensor partial =
        at::empty({plan.num_chunks, entries, op.groups}, x.options().dtype(at::kDouble));
    double* const sums = partial.mutable_data_ptr<double>();
    cuda::with_storage(x, [&](auto raw) {
      cuda::launch_backward<decltype(raw)>(plan, op.settings, table.const_data_ptr(),
                                           x.const_data_ptr(), grad.const_data_ptr(),
                                           gx.mutable_data_ptr(), sums);
    });
    cuda::launch_gradients(op.settings, ValuesOf(op.parameters), op.groups, plan.num_chunks, sums,
                           SlotsOf(g));
  }

  // Makes the tables of CPAB, or their gradients, for groups that `theta` (G, N - 1) has rows for.
  template <class Work>
  static void for_each_group(const Work& work, const Tensor& theta);
};

}  // namespace mmact
