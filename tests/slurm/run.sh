#!/usr/bin/env bash
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Trains through a real Slurm on this machine alone: `make test-slurm`, as root, with Debian's packages
# slurm-wlm and munge installed. A job of two tasks on CPUs runs to its evaluation; another is cancelled and
# resubmitted, and ends with the same parameters to the bit. All daemons are stopped at the end.
#   tests/slurm/run.sh PYTHON [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "$1")
folder=$(realpath -m "${2:-$(mktemp -d)}")

[ "$(id -u)" = 0 ] || { echo 'test-slurm: needs root, to start the daemons' >&2; exit 2; }
for program in munged slurmctld slurmd srun scancel; do
  command -v "$program" >/dev/null || PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || {
    echo "test-slurm: no $program here: apt-get install slurm-wlm munge" >&2
    exit 2
  }
done
export PATH=$PATH:/usr/sbin PYTHON=$python OMP_NUM_THREADS=1
mkdir -p "$folder"/{state,spool}
host=$(hostname -s)

pids=()
stop() {
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap stop EXIT

# munge: a key and a socket of our own, so that nothing of the system's is touched.
dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
chmod 400 "$folder/munge.key"
chown munge "$folder/munge.key"
mkdir -p "$folder/munge" && chown munge "$folder/munge" && chmod 755 "$folder/munge"
chmod 755 "$folder"
munged=$(command -v munged)
runuser -u munge -- "$munged" --foreground --key-file="$folder/munge.key" --socket="$folder/munge/socket" \
  --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >"$folder/munged.out" 2>&1 &
pids+=($!)

cores=$(nproc)
export SLURM_CONF=$folder/slurm.conf
cat >"$SLURM_CONF" <<CONF
ClusterName=mmact
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MpiDefault=none
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$((cores > 2 ? cores : 2)) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:2
CONF
# A job asks for two CPUs, also where there is one.
printf 'SlurmdParameters=config_overrides\n' >>"$SLURM_CONF"
slurmctld -D >"$folder/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D -N "$host" >"$folder/slurmd.out" 2>&1 &
pids+=($!)
for _ in $(seq 60); do
  sinfo -h -o %t 2>/dev/null | grep -q idle && break
  sleep 1
done
echo "slurm $(sinfo --version | cut -d' ' -f2): node $(sinfo -h -o '%n is %t, %c CPUs')"

"$python" tools/dataset_converters/make_mini.py coco "$folder/coco" --num-train 16 --num-val 4 --size 64 64 >/dev/null
"$python" - "$folder" <<'PY'
import sys
from pathlib import Path

folder = Path(sys.argv[1])
demo = Path('configs/demo/mask-rcnn_pwlu_mini-coco.py').resolve()
(folder / 'job.py').write_text(f"""
_base_ = '{demo}'
custom_hooks = [dict(type='PWLURealignHook', phase1=2, by_epoch=False)]
train_cfg = dict(max_iters=12, val_interval=12)
model = dict(backbone=dict(base_channels=4), neck=dict(in_channels=[4, 8, 16, 32]),
             train_cfg=dict(rcnn=dict(sampler=dict(num=16))),
             test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5)))
workers = dict(num_workers=0, persistent_workers=False)
dataset = dict(data_root='{folder}/coco/')
train_dataloader = dict(batch_size=2, dataset=dataset, **workers)
val_dataloader = dict(dataset=dataset, **workers)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{folder}/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
randomness = dict(seed=1)
""")
PY

submit() { # NAME [flags]: the job's output goes to NAME.log
  local name=$1
  shift
  GPUS=2 GPUS_PER_NODE=0 CPUS_PER_TASK=1 SRUN_ARGS='--label --overcommit' \
    tools/slurm_train.sh main "$name" "$folder/job.py" "$folder/$name" "$@" >>"$folder/$name.log" 2>&1
}

submit whole || { tail -30 "$folder/whole.log"; exit 1; }
ranks=$(grep -oE '^[01]:' "$folder/whole.log" | sort -u | tr -d ':' | xargs)
echo "whole: tasks $ranks in the log, $(grep -c 'Iter(train)' "$folder/whole.log") lines of training"
grep -E 'bbox_mAP:' "$folder/whole.log" | tail -1 | sed 's/.*Iter(val)/whole: Iter(val)/' | cut -c1-100
[ "$ranks" = '0 1' ] || exit 1

submit killed &
job=$!
until [ -f "$folder/killed/iter_4.pth" ]; do
  kill -0 "$job" 2>/dev/null || { tail -30 "$folder/killed.log"; exit 1; }
  sleep 0.2
done
scancel --name killed
if wait "$job"; then echo 'killed: was not cancelled in time' && exit 1; fi
while squeue -h | grep -q .; do sleep 1; done
echo "killed: cancelled after $(basename "$(cat "$folder/killed/last_checkpoint")")"
submit killed --resume || { tail -30 "$folder/killed.log"; exit 1; }
grep -oE 'resumed epoch: .*' "$folder/killed.log" | tail -1 | sed 's/^/killed: /'

"$python" - "$folder" <<'PY'
import sys

import torch

ends = [
    torch.load(f'{sys.argv[1]}/{name}/iter_12.pth', 'cpu', weights_only=False)['state_dict']
    for name in ('whole', 'killed')
]
same = all(torch.equal(ends[0][key], value) for key, value in ends[1].items())
print(f'{len(ends[0])} tensors of the two: {"the same bits" if same else "NOT THE SAME"}')
sys.exit(not same)
PY
