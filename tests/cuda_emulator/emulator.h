// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// CUDA for the project's kernels, on a CPU: included before each of csrc/cuda/*.cu, which g++ then
// compiles as C++. The threads of a block are fibers. A fiber runs until a barrier, a shuffle or its
// end; a shuffle is resolved when all lanes of its mask are there. See emulator.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {}  // NOLINT: as CUDA's
};

using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

extern dim3 threadIdx, blockIdx, blockDim;  // of the fiber that runs

namespace emulator {

// Runs body() as every thread of every block. Throws on what a GPU does not allow.
void launch(const cudaLaunchConfig_t& config, void (*body)(void*), void* arguments);

void barrier(int line);
// The eight bytes that lane (own lane + delta) gives, or one's own if there is no such lane.
uint64_t shuffle_down(unsigned mask, uint64_t value, unsigned delta);

// Counts an access to a tensor of the size of x.
void access(const void* address, size_t bytes, bool store);

template <class T>
T shuffle_down_of(unsigned mask, T value, unsigned delta) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle_down(mask, bits, delta);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

#define __syncthreads() emulator::barrier(__LINE__)
#define __shfl_down_sync(mask, value, delta) emulator::shuffle_down_of(mask, value, delta)

template <class T>
T __ldg(const T* from) {
  return *from;
}

inline float normcdff(float v) { return 0.5f * erfcf(-0.70710678f * v); }
inline double normcdf(double v) { return 0.5 * erfc(-0.70710678118654752440 * v); }

// Parameters are copied, as a launch does.
template <class... Parameters, class... Arguments>
int cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                       Arguments&&... arguments) {
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  emulator::launch(*config, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body);
  return 0;
}
