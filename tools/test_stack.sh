#!/usr/bin/env bash
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Tests mmact on another stack than the pinned one, in an environment of its own:
#     tools/test_stack.sh original|oldest|newest [arguments of pytest]
# original: OpenMMLab's own distributions on torch 2.1; oldest, newest: torch alone.
# PYTHON names the interpreter; by default the first that is there of those that the stack is for.
# The environment and the copy that the kernels are built in stay in .venv-STACK for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=${1:-}
shift || true
case $stack in
  original) pythons='python3.11 python3.10' tests='tests/test_ops tests/test_activations tests/test_configs tests/test_conversion' ;;
  oldest) pythons='python3.10 python3.11' tests='tests/test_ops tests/test_activations' ;;
  newest) pythons='python3.13 python3.12 python3.11' tests='tests/test_ops tests/test_activations' ;;
  *) echo "usage: $0 original|oldest|newest [arguments of pytest]" >&2 && exit 2 ;;
esac

env=$PWD/.venv-$stack
# The installed packages are known by the files that name it.
wanted=$(cat requirements/"$stack"*.txt requirements/test.txt)
if [ "$wanted" != "$(cat "$env/.installed" 2>/dev/null)" ]; then
  for python in ${PYTHON:-$pythons}; do
    "$python" -c 'import venv' 2>/dev/null && break
  done
  echo "[$stack 1/3] installing into .venv-$stack with $("$python" --version) (some GB; original compiles mmcv)"
  "$python" -m venv --clear "$env"
  pip="$env/bin/python -m pip -q --disable-pip-version-check"
  $pip install 'pip>=25'
  if [ "$stack" = original ]; then
    $pip install -r requirements/original-torch.txt
    $pip install --no-build-isolation -r requirements/original-openmmlab.txt
    $pip install --no-deps -r requirements/original-pose.txt
    # opencv-python needs libGL, which a machine without a screen may lack.
    $pip uninstall -y opencv-python opencv-python-headless
    $pip install --no-deps 'opencv-python-headless<4.12'
  else
    $pip install -r "requirements/$stack.txt"
  fi
  $pip install -r requirements/test.txt
  echo "$wanted" > "$env/.installed"
fi

echo "[$stack 2/3] building the kernels in .venv-$stack/src (about 2 minutes)"
mkdir -p "$env/src"
git ls-files -z --cached --others --exclude-standard | tar cf - --null --ignore-failed-read -T - 2>/dev/null | tar xf - -C "$env/src"
cd "$env/src"
MMACT_KERNELS=1 MMACT_CUDA=${MMACT_CUDA:-0} "$env/bin/python" setup.py -q build_ext --inplace > "$env/build.log" 2>&1 ||
  { tail -n 40 "$env/build.log" && exit 1; }

echo "[$stack 3/3] testing"
"$env/bin/python" -c 'import platform, torch; print("Python", platform.python_version(), "torch", torch.__version__)'
# shellcheck disable=SC2086
PYTHONPATH=$PWD OMP_NUM_THREADS=1 "$env/bin/python" -m pytest -q $tests "$@"
