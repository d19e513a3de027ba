// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#include "autograd.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace mmact {
namespace {

using c10::IValue;
using c10::OperatorHandle;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What all calls of an op have in common.
struct Differentiation {
  std::string name;
  std::vector<int64_t> learned;

  OperatorHandle find(const char* suffix) const {
    return c10::Dispatcher::singleton().findSchemaOrThrow(("mmact::" + name + suffix).c_str(), "");
  }
};

// The tensors of a call are arguments of `forward`, so that autograd sees them; `others` are the
// op's arguments, with empty places where those tensors are.
struct Call {
  const OperatorHandle& op;
  const Differentiation& about;
  std::vector<IValue> arguments;
  std::vector<int64_t> places;  // of the tensors
};

struct Differentiable : torch::autograd::Function<Differentiable> {
  static constexpr bool is_traceable = true;  // for compiled autograd: it only calls ops

  static at::Tensor forward(AutogradContext* ctx, at::TensorList tensors, const Call& call) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    torch::jit::Stack stack = call.arguments;
    for (size_t k = 0; k < tensors.size(); ++k) stack[call.places[k]] = tensors[k];
    call.op.callBoxed(&stack);
    ctx->save_for_backward(tensors.vec());
    ctx->saved_data["arguments"] = c10::ivalue::Tuple::create(call.arguments);
    ctx->saved_data["places"] = call.places;
    ctx->saved_data["about"] = reinterpret_cast<int64_t>(&call.about);
    return stack.back().toTensor();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto& about = *reinterpret_cast<const Differentiation*>(ctx->saved_data["about"].toInt());
    const auto places = ctx->saved_data["places"].toIntVector();
    const variable_list tensors = ctx->get_saved_variables();
    torch::jit::Stack stack{grads[0]};
    for (const IValue& argument : ctx->saved_data["arguments"].toTupleRef().elements())
      stack.push_back(argument);
    for (size_t k = 0; k < tensors.size(); ++k) stack[1 + places[k]] = tensors[k];
    if (at::GradMode::is_enabled()) {  // create_graph
      about.find("_bwd_differentiable").callBoxed(&stack);
    } else {
      const at::AutoDispatchBelowADInplaceOrView guard;
      about.find("_bwd").callBoxed(&stack);
    }
    variable_list found(tensors.size() + 1);  // of the tensors, and of the call
    for (size_t k = 0; k < tensors.size(); ++k) {
      if (!ctx->needs_input_grad(k)) continue;
      const auto at = std::find(about.learned.begin(), about.learned.end(), places[k]);
      if (at == about.learned.end()) continue;
      const size_t result = at - about.learned.begin();
      if (!stack[result].isNone()) found[k] = stack[result].toTensor();
    }
    return found;
  }
};

struct AutogradKernel : c10::OperatorKernel {
  Differentiation about;

  explicit AutogradKernel(Differentiation about) : about(std::move(about)) {}

  void operator()(const OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
    Call call{op, about, {}, {}};
    const size_t count = op.schema().arguments().size();
    call.arguments = torch::jit::pop(*stack, count);
    std::vector<at::Tensor> tensors;
    for (size_t k = 0; k < count; ++k) {
      if (!call.arguments[k].isTensor() || !call.arguments[k].toTensor().defined()) continue;
      tensors.push_back(std::move(call.arguments[k]).toTensor());
      call.arguments[k] = IValue();
      call.places.push_back(static_cast<int64_t>(k));
    }
    stack->push_back(Differentiable::apply(at::TensorList(tensors), call));
  }
};

}  // namespace

torch::CppFunction autograd_of(const std::string& name, std::vector<int64_t> learned) {
  return torch::CppFunction::makeFromBoxedFunctor(
      std::make_unique<AutogradKernel>(Differentiation{name, std::move(learned)}));
}

}  // namespace mmact
