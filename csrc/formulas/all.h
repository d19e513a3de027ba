// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The formulas that the engines' kernels are built for.
#pragma once

#include "acon.h"
#include "cpab.h"
#include "pau.h"
#include "piecewise_linear.h"
#include "pwlu.h"
#include "xielu.h"

#define MMACT_FOR_EACH_SETTINGS(use) \
  use(AconSettings);                 \
  use(AreluSettings);                \
  use(CpabSettings);                 \
  use(PauSettings);                  \
  use(PiecewiseLinearSettings);      \
  use(PwluSettings);                 \
  use(XieluSettings);
