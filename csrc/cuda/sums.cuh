// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// From the sums of chunks to those of groups of channels.
#pragma once

#include "launch.cuh"
#include "plan.h"

namespace mmact {
namespace cuda {

constexpr int kSumThreads = 128;  // of a block

// The place of a group's total: its first channel's, in the first chunk.
__device__ inline double* total(const Sums& sums, int64_t entry, int64_t group) {
  return sums.partial + entry * sums.channels + group * sums.per_group;
}

// Adds up `count` entries of one group, in place. All threads of the block must call it, and no
// other block may use these sums. Ends with a barrier, after which every thread of the block sees
// the totals.
__device__ inline void add_chunks(const Sums& sums, int64_t first, int64_t count, int64_t group) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t e = threadIdx.x / kWarp; e < count; e += blockDim.x / kWarp) {
    double* const from = total(sums, first + e, group);
    double sum = 0;
    for (int64_t k = lane; k < sums.num_chunks * sums.per_group; k += kWarp) {
      const int64_t chunk = k / sums.per_group, member = k - chunk * sums.per_group;
      sum += from[chunk * sums.entries * sums.channels + member];
    }
    for (int other = kWarp / 2; other > 0; other /= 2)
      sum += __shfl_down_sync(0xffffffffu, sum, other);
    if (lane == 0) *from = sum;
  }
  __syncthreads();
}

}  // namespace cuda
}  // namespace mmact
