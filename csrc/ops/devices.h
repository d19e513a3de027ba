// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The devices that ops are built for.
#pragma once

#include <torch/library.h>

// Calls use(dispatch key, Device) for each, where Device begins the names of its classes.
#if defined(MMACT_EMULATE_CUDA)  // tests/cuda_emulator: CUDA's kernels take the place of the CPU's
#include "../cuda/dyrelu_host.h"
#include "../cuda/host.h"
#define MMACT_FOR_EACH_DEVICE(use) use(CPU, Cuda)
#elif defined(MMACT_CUDA)
#include "../cpu/dyrelu_host.h"
#include "../cpu/host.h"
#include "../cuda/dyrelu_host.h"
#include "../cuda/host.h"
#define MMACT_FOR_EACH_DEVICE(use) use(CPU, Cpu) use(CUDA, Cuda)
#else
#include "../cpu/dyrelu_host.h"
#include "../cpu/host.h"
#define MMACT_FOR_EACH_DEVICE(use) use(CPU, Cpu)
#endif
