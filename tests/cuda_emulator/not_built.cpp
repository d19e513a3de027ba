// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Takes the place of kernels_double.cu and kernels_bfloat16.cu where the suite does without them.
#include "../../csrc/cuda/host.h"
#include "../../csrc/formulas/all.h"

namespace mmact {
namespace cuda {

template <class Raw, class Settings>
void launch_forward(const Plan&, const Norm&, const Settings&, const void*, const void*, void*) {
  TORCH_CHECK(false, "not built");
}

template <class Raw, class Settings>
void launch_backward(const Plan&, const Norm&, const Settings&, const void*, const void*,
                     const void*, void*, double*) {
  TORCH_CHECK(false, "not built");
}

#define MMACT_INSTANTIATE(Settings)                                                              \
  template void launch_forward<double>(const Plan&, const Norm&, const Settings&, const void*,   \
                                       const void*, void*);                                      \
  template void launch_backward<double>(const Plan&, const Norm&, const Settings&, const void*,  \
                                        const void*, const void*, void*, double*);               \
  template void launch_forward<at::BFloat16>(const Plan&, const Norm&, const Settings&,          \
                                             const void*, const void*, void*);                   \
  template void launch_backward<at::BFloat16>(const Plan&, const Norm&, const Settings&,         \
                                              const void*, const void*, const void*, void*,      \
                                              double*)
MMACT_FOR_EACH_SETTINGS(MMACT_INSTANTIATE)

}  // namespace cuda
}  // namespace mmact
