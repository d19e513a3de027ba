// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// mmact::cpab_table and its backward. Schemas, shape functions and autograd are in
// mmact/ops/cpab.py.
#include "../formulas/cpab_table.h"

#include "checks.h"
#include "devices.h"

namespace mmact {
namespace {

CpabDomain domain_of(const Tensor& theta, double a, double b, bool affine, bool single) {
  TORCH_CHECK(theta.dim() == 2 && theta.numel() > 0 && theta.size(1) < 1 << 19 &&
                  is_supported(theta.scalar_type()) && a < b,
              "cpab_table: theta must be floating-point of shape (G, N - 1), got ",
              theta.scalar_type(), " of ", theta.sizes());
  const double epsilon = single ? static_cast<double>(FLT_EPSILON) : DBL_EPSILON;
  return {static_cast<int>(theta.size(1)) + 1, a, b, affine, epsilon};
}

template <class Device>
std::tuple<Tensor, Tensor> cpab_table(const Tensor& theta, double a, double b, bool affine,
                                      bool single) {
  const CpabDomain domain = domain_of(theta, a, b, affine, single);
  const Tensor velocities = theta.to(at::kDouble).contiguous();
  const int64_t groups = theta.size(0), count = 2 * domain.cells;
  Tensor breakpoints = at::empty({groups, count}, velocities.options());
  Tensor table = at::empty({groups, count + 1, kCpabColumns}, velocities.options());
  Device::for_each_group(
      CpabMakeTables{domain, velocities.const_data_ptr<double>(),
                     breakpoints.mutable_data_ptr<double>(), table.mutable_data_ptr<double>()},
      velocities);
  return {breakpoints, table};
}

template <class Device>
Tensor cpab_table_bwd(const Tensor& grad, const Tensor& theta, double a, double b, bool affine,
                      bool single) {
  const CpabDomain domain = domain_of(theta, a, b, affine, single);
  TORCH_CHECK(grad.dim() == 3 && grad.size(0) == theta.size(0) &&
                  grad.size(1) == 2 * domain.cells + 1 && grad.size(2) == kCpabColumns &&
                  grad.scalar_type() == at::kDouble && grad.device() == theta.device(),
              "cpab_table: the table's gradient does not fit theta, got ", grad.sizes());
  const Tensor velocities = theta.to(at::kDouble).contiguous(), g_table = grad.contiguous();
  Tensor g_theta = at::empty_like(velocities);
  Device::for_each_group(
      CpabThetaGradients{domain, g_table.const_data_ptr<double>(),
                         velocities.const_data_ptr<double>(), g_theta.mutable_data_ptr<double>()},
      velocities);
  return g_theta.to(theta.scalar_type());
}

template <class Device>
void add_to(torch::Library& m) {
  m.impl("cpab_table", cpab_table<Device>);
  m.impl("cpab_table_bwd", cpab_table_bwd<Device>);
}

}  // namespace
}  // namespace mmact

#define MMACT_REGISTER_ON(key, Name) \
  TORCH_LIBRARY_IMPL(mmact, key, m) { mmact::add_to<mmact::Name##Device>(m); }
MMACT_FOR_EACH_DEVICE(MMACT_REGISTER_ON)
