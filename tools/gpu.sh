#!/usr/bin/env bash
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# For a machine with an NVIDIA GPU, nvcc, torch and pytest, without network and OpenMMLab: builds the
# CUDA kernels in place, runs the tests marked cuda, measures. `make gpu OUT=folder` leaves log.txt and
# benchmark.json there. EMULATE=1 does the same on the CPU, so that the script itself can be tried;
# its figures mean nothing.
set -euo pipefail
out=${1:?usage: tools/gpu.sh FOLDER}
python=${PYTHON:-python3}
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1
export PYTHONPATH=.
started=$SECONDS
step() { printf '[gpu %s, after %d s] %s\n' "$1" $((SECONDS - started)) "$2"; }

if [ "${EMULATE:-0}" = 1 ]; then
  step 1/3 'building the kernels for the emulator'
  MMACT_EMULATED_CUDA=$("$python" tests/cuda_emulator/build.py)
  export MMACT_EMULATED_CUDA
  device=(--device cpu --repeat 3 --shape 2 8 16 16 --dtype float32)
else
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader || true
  capability=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  export MMACT_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}
  step 1/3 "building the kernels in place for $TORCH_CUDA_ARCH_LIST (several minutes)"
  "$python" setup.py -q build_ext --inplace
  device=(--device cuda --compile)
fi
step 2/3 'GPU tests of ops and activations'
failed=0
"$python" -m pytest -q -m cuda tests/test_ops tests/test_activations || failed=$?
step 3/3 benchmark
"$python" tools/benchmark.py "${device[@]}" --out "$out/benchmark.json"
step 'done' "log.txt and benchmark.json are in $out"
exit "$failed"
