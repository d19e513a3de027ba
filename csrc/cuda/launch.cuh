// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Launching a kernel, and its accesses to memory.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

namespace mmact {
namespace cuda {

// On the current stream of the current device.
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), unsigned blocks, int threads,
                   int64_t shared_bytes, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = c10::cuda::getCurrentCUDAStream().stream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Reads and writes of tensors of the size of x, which an emulator can count.
template <class T>
__device__ T read_global(const T* from) {
#ifdef MMACT_EMULATE_CUDA
  emulator::access(from, sizeof(T), false);
#endif
  return *from;
}

template <class T>
__device__ void write_global(T* to, const T& value) {
#ifdef MMACT_EMULATE_CUDA
  emulator::access(to, sizeof(T), true);
#endif
  *to = value;
}

}  // namespace cuda
}  // namespace mmact
