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
#include "norm.h"

namespace mmact {

template <class Description>
using Parameters = std::array<Tensor, Description::Settings::kParameters>;

// The gradients of the learned parameters, in the order of the schema.
template <class Description, size_t... k>
auto result_of(const Parameters<Description>& g, std::index_sequence<k...>) {
  return std::make_tuple(g[Description::kFirstLearned + k]...);
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
    return std::tuple_cat(std::make_tuple(gx),
                          result_of<Description>(g, std::make_index_sequence<kCount - kFirst>()));
  }

  // The same of z = norm(x) (+ residual) in one pass.
  static Tensor norm_forward(const Tensor& x, const Tensor& mean, const Tensor& var,
                             const OptionalTensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& residual, Arguments... arguments, double eps,
                             bool) {
    const Description op(x, arguments...);
    Tensor y = at::empty_like(x);
    const NormOf of(Description::kName, y, mean, var, weight, bias, residual, eps);
    check_norm(op);
    if (x.numel() == 0) return y;
    const Tensor dense = with_strides_of(x, y);
    typename Device::DeviceNorm norm(of, dense);
    Device::forward(op, dense, y, &norm);
    return y;
  }

  // The gradients of x, weight, bias, residual and the learned parameters. `constant`: mean and var
  // are not x's own.
  static auto norm_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                            const Tensor& var, const OptionalTensor& weight,
                            const OptionalTensor& bias, const OptionalTensor& residual,
                            Arguments... arguments, double eps, bool constant) {
    constexpr size_t kCount = Description::Settings::kParameters;
    constexpr size_t kFirst = Description::kFirstLearned;
    const Description op(x, arguments...);
    check_grad(grad, x);
    Tensor gx = at::empty_like(x);
    const NormOf of(Description::kName, gx, mean, var, weight, bias, residual, eps);
    check_norm(op);
    const auto like = [&](const OptionalTensor& t) {
      return t ? at::zeros(t->sizes(), t->options()) : at::empty({0}, x.options());
    };
    const Tensor g_weight = like(weight), g_bias = like(bias);
    Tensor g_residual = residual ? at::empty_like(gx) : at::empty({0}, x.options());
    Parameters<Description> g;
    for (size_t k = kFirst; k < kCount; ++k) {
      const Tensor& p = op.parameters[k];
      g[k] = x.numel() > 0 ? at::empty(p.sizes(), p.options()) : at::zeros(p.sizes(), p.options());
    }
    if (x.numel() > 0) {
      const Tensor dense = with_strides_of(x, gx);
      typename Device::DeviceNorm norm(of, dense);
      // Of a norm with batch statistics the first pass finds the gradient of z.
      Tensor& gz = !constant && residual ? g_residual : gx;
      Device::backward(op, with_strides_of(grad, gx), dense, gz, g, &norm,
                       constant ? &g_residual : nullptr);
      norm.finish(of, constant ? Tensor() : gz, dense, gx, g_weight, g_bias);
    }
    return std::tuple_cat(std::make_tuple(gx, g_weight, g_bias, g_residual),
                          result_of<Description>(g, std::make_index_sequence<kCount - kFirst>()));
  }

  static void add_to(torch::Library& m) {
    const std::string name = Description::kName;
    m.impl(name.c_str(), forward);
    m.impl((name + "_bwd").c_str(), backward);
    m.impl((name + "_norm").c_str(), norm_forward);
    m.impl((name + "_norm_bwd").c_str(), norm_backward);
  }

 private:
  // A function of a channel or a group of them has the norm's channels.
  static void check_norm(const Description& op) {
    TORCH_CHECK(op.groups == 1 || op.channel_dim == 1, Description::kName,
                ": behind a norm the channels are at dimension 1, not ", op.channel_dim);
  }
};

template <class Description>
void add_autograd(torch::Library& m) {
  const std::string name = Description::kName, with_norm = name + "_norm";
  std::vector<int64_t> learned{0}, behind_norm{0, 3, 4, 5};
  for (int64_t k = Description::kFirstLearned; k < Description::Settings::kParameters; ++k) {
    learned.push_back(1 + k);
    behind_norm.push_back(6 + k);
  }
  m.impl(name.c_str(), autograd_of(name, learned));
  m.impl(with_norm.c_str(), autograd_of(with_norm, behind_norm));
}

}  // namespace mmact

// Registers the kernels of an op for all devices, and its derivative.
#define MMACT_REGISTER(Description)                                              \
  namespace {                                                                    \
  using Registered = mmact::Description;                                         \
  }                                                                              \
  TORCH_LIBRARY_IMPL(mmact, Autograd, m) { mmact::add_autograd<Registered>(m); } \
  MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
#define MMACT_REGISTER_ON(key, Name) \
  TORCH_LIBRARY_IMPL(mmact, key, m) { mmact::Op<mmact::Name##Device, Registered>::add_to(m); }
