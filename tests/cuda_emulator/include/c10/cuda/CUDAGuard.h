// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

namespace c10 {
namespace cuda {

struct CUDAGuard {
  explicit CUDAGuard(Device) {}
};

}  // namespace cuda
}  // namespace c10
