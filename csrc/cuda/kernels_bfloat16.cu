// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#define MMACT_RAW at::BFloat16
#include "kernels.inc"
