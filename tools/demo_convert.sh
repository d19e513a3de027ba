#!/usr/bin/env bash
# Trains the demo's Mask R-CNN with ReLU, tests it as it is and with a PWLU in the place of every
# ReLU, trains both for 100 iterations more, and prints the four scores.
# Usage: tools/demo_convert.sh PYTHON WORK_DIR
set -euo pipefail
python=$1 dir=$2
configs=configs/demo/conversion/mask-rcnn
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296

echo "[demo] training with ReLU (some minutes on 2 cores); logs in $dir"
"$python" tools/train.py "${configs}_relu_mini-coco.py" --work-dir "$dir/relu" --resume >/dev/null
for kind in relu converted; do
  echo "[demo] $kind: as it is, and after 100 iterations more"
  config="${configs}_${kind}-more_mini-coco.py"
  "$python" tools/test.py "$config" "$dir/relu/iter_400.pth" --work-dir "$dir/$kind-test" 2>&1 |
    sed -n 's/.*Iter(test) \[50\/50\]/[demo]  /p'
  "$python" tools/train.py "$config" --work-dir "$dir/$kind-more" 2>&1 |
    sed -n 's/.*Iter(val) \[50\/50\]/[demo]  /p'
done
