// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace c10 {
namespace cuda {

struct CUDAStream {
  void* stream() const { return nullptr; }
};
inline CUDAStream getCurrentCUDAStream() { return {}; }

}  // namespace cuda
}  // namespace c10
