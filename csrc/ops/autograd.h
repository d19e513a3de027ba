// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Reverse mode of the elementwise ops without Python's autograd around every call.
#pragma once

#include <torch/library.h>

#include <cstdint>
#include <string>
#include <vector>

namespace mmact {

// The kernel, for the key Autograd, of an op. Its backward is the op NAME_bwd, which returns the
// gradients of the tensors at these places of the schema; where that has to be differentiable
// itself, NAME_bwd_differentiable.
torch::CppFunction autograd_of(const std::string& name, std::vector<int64_t> learned);

}  // namespace mmact
