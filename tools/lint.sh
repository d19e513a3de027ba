#!/usr/bin/env bash
# Formats the code, or with --check only says what is not in order. The pre-commit hook, CI and
# `make lint` all run this. Versions: requirements/dev.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(git ls-files --cached --others --exclude-standard 'csrc/*' | grep -E '\.(cpp|cu|cuh|h|inc)$')
if [ "${1:-}" = --check ]; then
  ruff check -q .
  ruff format -q --check .
  clang-format --dry-run --Werror "${sources[@]}"
else
  ruff check -q --fix .
  ruff format -q .
  clang-format -i "${sources[@]}"
fi
mypy --no-error-summary
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard | grep -E '\.sh$|^\.ci/run$')
shellcheck "${scripts[@]}"
