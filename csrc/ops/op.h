// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Op<Description>: forward and backward of an elementwise op on a device, from its description.
//
// A description is a class with
//
// - kName, the op's name; its backward is called kName + "_bwd";
// - Settings, of its formula (see formulas/formula.h);
// - kFirstLearned: the parameters from this one on have gradients;
// - Arguments, void(...) of the schema's arguments after x;
// - a constructor of x and these arguments, which checks them and sets `settings`, `parameters`
//   (contiguous, with a row per group), `groups` and `channel_dim`.
#pragma once

#include <string>
#include <tuple>
#include <utility>

#include "autograd.h"
#include "checks.h"
#include "devices.h"

namespace mmact {

template <class Description>
using Parameters = std::array<Tensor, Description::Settings::kParameters>;

// The gradients of x and of the learned parameters, in the order of the schema.
template <class Description, size_t... k>
auto result_of(const Tensor& gx, const Parameters<Description>& g, std::index_sequence<k...>) {
  return std::make_tuple(gx, g[Description::kFirstLearned + k]...);
}

template <class Device, class Description, class Arguments = typename Description::Arguments>
struct Op;

template <class Device, class Description, class... Arguments>
struct Op<Device, Description, void(Arguments...)> {
  static Tensor forward(const Tensor& x, Arguments... arguments) {
    const Description op(x, arguments...);
    Tensor y = at::empty_like(x);
    if (x.numel() > 0) Device::forward(op, with_strides_of(x, y), y);
    return y;
  }

  static auto backward(const Tensor& grad, const Tensor& x, Arguments... arguments) {
    constexpr size_t kCount = Description::Settings::kParameters;
    constexpr size_t kFirst = Description::kFirstLearned;
    const Description op(x, arguments...);
    check_grad(grad, x);
    Tensor gx = at::empty_like(x);
    Parameters<Description> g;
    for (size_t k = kFirst; k < kCount; ++k) {
      const Tensor& p = op.parameters[k];
      g[k] = x.numel() > 0 ? at::empty(p.sizes(), p.options()) : at::zeros(p.sizes(), p.options());
    }
    if (x.numel() > 0)
      Device::backward(op, with_strides_of(grad, gx), with_strides_of(x, gx), gx, g);
    return result_of<Description>(gx, g, std::make_index_sequence<kCount - kFirst>());
  }

  static void add_to(torch::Library& m) {
    const std::string name = Description::kName;
    m.impl(name.c_str(), forward);
    m.impl((name + "_bwd").c_str(), backward);
  }
};

}  // namespace mmact

// Registers the kernels of an op for all devices, and its derivative.
#define MMACT_REGISTER(Description)                                                            \
  namespace {                                                                                  \
  using Registered = mmact::Description;                                                       \
  }                                                                                            \
  TORCH_LIBRARY_IMPL(mmact, Autograd, m) {                                                     \
    constexpr size_t kFirst = Registered::kFirstLearned;                                       \
    m.impl(Registered::kName, mmact::autograd_of(Registered::kName, 1 + kFirst,                \
                                                 Registered::Settings::kParameters - kFirst)); \
  }                                                                                            \
  MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
#define MMACT_REGISTER_ON(key, Name) \
  TORCH_LIBRARY_IMPL(mmact, key, m) { mmact::Op<mmact::Name##Device, Registered>::add_to(m); }
