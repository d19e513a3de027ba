// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// The emulator's launches throw by themselves.
#define C10_CUDA_CHECK(call) static_cast<void>(call)
