// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From parameters to the tables that kernels read, and from sums to the parameters' gradients.
#include "../formulas/all.h"
#include "host.h"
#include "launch.cuh"

namespace mmact {
namespace cuda {
namespace {

constexpr int kThreads = 128;

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

// Adds up the chunks of one channel, in place: the totals replace the first chunk's sums. All
// threads of the block must call it, and no other block may use this channel's sums. Ends with a
// barrier, after which every thread of the block sees the totals.
__device__ inline void add_chunks(double* partial, int64_t num_chunks, int64_t entries,
                                  int64_t channels, int64_t channel) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t e = threadIdx.x / kWarp; e < entries; e += blockDim.x / kWarp) {
    double* const from = partial + e * channels + channel;
    double sum = 0;
    for (int64_t chunk = lane; chunk < num_chunks; chunk += kWarp)
      sum += from[chunk * entries * channels];
    for (int other = kWarp / 2; other > 0; other /= 2)
      sum += __shfl_down_sync(0xffffffffu, sum, other);
    if (lane == 0) *from = sum;
  }
  __syncthreads();
}

// A block per group.
template <class Settings>
__global__ void gradients_kernel(const Settings settings,
                                 const __grid_constant__ ValuesOf<Settings::kParameters> parameters,
                                 int64_t groups, int64_t num_chunks, double* partial,
                                 const __grid_constant__ SlotsOf<Settings::kParameters> gradients) {
  const int64_t g = blockIdx.x;
  add_chunks(partial, num_chunks, settings.entries(), groups, g);
  if (threadIdx.x != 0) return;
  settings.gradients(
      parameters.values, g, [=](int64_t entry) { return partial[entry * groups + g]; },
      gradients.slots);
}

}  // namespace

template <class Settings>
void launch_table(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                  int64_t groups, int rows, void* table, bool in_double) {
  const int64_t size = rows * groups, blocks = divide_up(size, kThreads);
  TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "too many groups of channels: ", groups);
  const auto launch = [&](auto* to) {
    launch_kernel(table_kernel<std::decay_t<decltype(*to)>, Settings>,
                  static_cast<unsigned>(blocks), kThreads, 0, settings, parameters, groups, size,
                  to);
  };
  if (in_double)
    launch(static_cast<double*>(table));
  else
    launch(static_cast<float*>(table));
}

template <class Settings>
void launch_gradients(const Settings& settings, const ValuesOf<Settings::kParameters>& parameters,
                      int64_t groups, int64_t num_chunks, double* partial,
                      const SlotsOf<Settings::kParameters>& gradients) {
  launch_kernel(gradients_kernel<Settings>, static_cast<unsigned>(groups), kThreads, 0, settings,
                parameters, groups, num_chunks, partial, gradients);
}

#define MMACT_INSTANTIATE(Settings)                                                                \
  template void launch_table(const Settings&, const ValuesOf<Settings::kParameters>&, int64_t,     \
                             int, void*, bool);                                                    \
  template void launch_gradients(const Settings&, const ValuesOf<Settings::kParameters>&, int64_t, \
                                 int64_t, double*, const SlotsOf<Settings::kParameters>&)
MMACT_FOR_EACH_SETTINGS(MMACT_INSTANTIATE)
#undef MMACT_INSTANTIATE

}  // namespace cuda
}  // namespace mmact
