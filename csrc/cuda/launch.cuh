// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Launching a kernel.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

namespace mmact {
namespace cuda {

// On the current stream of the current device.
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), unsigned blocks, int threads,
                   int64_t shared_bytes, const Arguments&... arguments) {
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  kernel<<<blocks, threads, static_cast<size_t>(shared_bytes), stream>>>(arguments...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace cuda
}  // namespace mmact
