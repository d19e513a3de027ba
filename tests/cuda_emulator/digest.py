# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prints a digest of the bits of every op's results on the emulated kernels."""

import hashlib
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_ops.cases import CASES
from test_ops.test_elementwise import SOME_CASES, arguments, run

torch.ops.load_library(os.environ['MMACT_EMULATED_CUDA'])
for name in SOME_CASES:
    for layout in ('nchw', 'channels_last', 'tokens'):
        for dtype in (torch.float32, torch.float16):
            given = arguments(CASES[name], layout, 36, 1, dtype)
            results = run(CASES[name], *given)
            bits = b''.join(t.reshape(-1).view(torch.uint8).numpy().tobytes() for t in results)
            print(name, layout, dtype, hashlib.sha256(bits).hexdigest()[:16])
