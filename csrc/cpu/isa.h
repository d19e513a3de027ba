// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The kernels are built once per instruction set and chosen at run time, so that one build runs on
// every x86-64 CPU at its best. The build of instruction set NAME lives in namespace mmact::NAME.
#pragma once

#include "task.h"

namespace mmact {

// Processes the work items [begin, end) of a task. `table` is a PwluTable of float or double, as
// the storage type's arithmetic has it.
using PwluRun = void (*)(Storage storage, const Task& task, const void* table, bool inference,
                         int64_t begin, int64_t end);

struct PwluKernels {
  PwluRun forward, backward;
};

namespace portable {
extern const PwluKernels pwlu_kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const PwluKernels pwlu_kernels;
}
namespace avx512 {
extern const PwluKernels pwlu_kernels;
}
#endif

}  // namespace mmact
