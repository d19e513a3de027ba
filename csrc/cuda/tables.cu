// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From parameters to the tables that kernels read, and from sums to the parameters' gradients.
#include "../formulas/all.h"
#include "host.h"
#include "sums.cuh"

namespace mmact {
namespace cuda {
namespace {

// A thread per entry.
template <class T, class Settings>
__global__ void table_kernel(const Settings settings,
                             const __grid_constant__ ValuesOf<Settings::kParameters> parameters,
                             int64_t groups, int64_t size, T* table) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= size) return;
  const auto group = settings.group(parameters.values, entry % groups);
  table[entry] = static_cast<T>(group.number(static_cast<int>(entry / groups)));
}

// A block per group.
template <class Settings>
__global__ void gradients_kernel(const Settings settings,
                                 const __grid_constant__ ValuesOf<Settings::kParameters> parameters,
                                 const __grid_constant__ Sums sums,
                                 const __grid_constant__ SlotsOf<Settings::kParameters> gradients) {
  const int64_t g = blockIdx.x;
  add_chunks(sums, 0, settings.entries(), g);
  if (threadIdx.x != 0) return;
  settings.gradients(
      parameters.values, g, [&](int64_t entry) { return *total(sums, entry, g); }, gradients.slots);
}

}  // namespace

template <class Settings>
void launch_table(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                  int64_t groups, int rows, void* table, bool in_double) {
  const int64_t size = rows * groups, blocks = divide_up(size, kSumThreads);
  TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "too many groups of channels: ", groups);
  const auto launch = [&](auto* to) {
    launch_kernel(table_kernel<std::decay_t<decltype(*to)>, Settings>,
                  static_cast<unsigned>(blocks), kSumThreads, 0, settings, parameters, groups, size,
                  to);
  };
  if (in_double)
    launch(static_cast<double*>(table));
  else
    launch(static_cast<float*>(table));
}

template <class Settings>
void launch_gradients(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                      const Sums& sums, const SlotsOf<Settings::kParameters>& gradients) {
  launch_kernel(gradients_kernel<Settings>, static_cast<unsigned>(sums.channels / sums.per_group),
                kSumThreads, 0, settings, parameters, sums, gradients);
}

#define MMACT_INSTANTIATE(Settings)                                                            \
  template void launch_table(const Settings&, const ValuesOf<Settings::kParameters>&, int64_t, \
                             int, void*, bool);                                                \
  template void launch_gradients(const Settings&, const ValuesOf<Settings::kParameters>&,      \
                                 const Sums&, const SlotsOf<Settings::kParameters>&)
MMACT_FOR_EACH_SETTINGS(MMACT_INSTANTIATE)
#undef MMACT_INSTANTIATE

}  // namespace cuda
}  // namespace mmact
