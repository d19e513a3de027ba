// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Reverse mode of the elementwise ops without Python's autograd around every call.
#pragma once

#include <torch/library.h>

#include <cstddef>

namespace mmact {

// The kernel, for the key Autograd, of an op whose tensors come first in its schema. Its backward
// is the op NAME_bwd, which returns the gradients of x and of `learned` tensors from the
// one at `first_learned` on; where that has to be differentiable itself, NAME_bwd_differentiable.
torch::CppFunction autograd_of(const char* name, size_t first_learned, size_t learned);

}  // namespace mmact
