// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What an op gets for `Tensor?`: std::optional, but before torch 2.4 a class of PyTorch's own.
#pragma once

#include <ATen/core/ivalue.h>

#include <utility>

namespace mmact {

using OptionalTensor = decltype(std::declval<const c10::IValue&>().toOptional<at::Tensor>());

}  // namespace mmact
