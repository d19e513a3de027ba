// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The tables of CPAB and their gradients.
#include "../formulas/cpab_table.h"

#include "host.h"
#include "launch.cuh"

namespace mmact {
namespace cuda {
namespace {

// The threads of a block make the table of a group.
struct Block {
  template <class Work>
  __device__ void each(int n, Work work) const {
    for (int k = threadIdx.x; k < n; k += blockDim.x) work(k);
    __syncthreads();
  }
  template <class Work>
  __device__ void once(Work work) const {
    if (threadIdx.x == 0) work();
    __syncthreads();
  }
};

constexpr int kTableThreads = 64;

template <class Work>
__global__ void __launch_bounds__(kTableThreads)
    group_kernel(const __grid_constant__ Work work, double* scratch) {
  work(Block(), blockIdx.x, scratch + blockIdx.x * work.domain.scratch_size());
}

}  // namespace
}  // namespace cuda

template <class Work>
void CudaDevice::for_each_group(const Work& work, const Tensor& theta) {
  const c10::cuda::CUDAGuard guard(theta.device());
  const Tensor scratch = at::empty({theta.size(0), work.domain.scratch_size()}, theta.options());
  cuda::launch_kernel(cuda::group_kernel<Work>, static_cast<unsigned>(theta.size(0)),
                      cuda::kTableThreads, 0, work, scratch.mutable_data_ptr<double>());
}

template void CudaDevice::for_each_group(const CpabMakeTables&, const Tensor&);
template void CudaDevice::for_each_group(const CpabThetaGradients&, const Tensor&);

}  // namespace mmact
