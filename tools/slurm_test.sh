#!/usr/bin/env bash
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Evaluates as a Slurm job, one task per GPU.
#   tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [flags of tools/test.py]
# Environment: GPUS (all nodes together, 8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS.
# GPUS_PER_NODE=0 asks Slurm for no GPUs: GPUS tasks run on CPUs, over gloo.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB CONFIG CHECKPOINT [flags of tools/test.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 checkpoint=$4
shift 4
gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8}
resources=()
if [ "$gpus_per_node" -gt 0 ]; then
    resources=(--gres="gpu:$gpus_per_node" --ntasks-per-node="$gpus_per_node")
fi
# SRUN_ARGS holds several arguments: it is split on purpose.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --ntasks="$gpus" "${resources[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"
