#!/usr/bin/env bash
# Trains a demo config, and says where its score and pictures are. An interrupted run goes on where it
# was; a finished one is not repeated.
# Usage: tools/demo.sh PYTHON CONFIG WORK_DIR
set -euo pipefail
python=$1 config=$2 dir=$3

# PyTorch allocates and frees large tensors all the time on a CPU. Keeping freed memory, instead of
# giving it back to the system each time, avoids page faults.
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296

if [ ! -f "$dir/finished" ]; then
  echo "[demo] training with $config (about 4 minutes on 2 cores); log in $dir"
  "$python" tools/train.py "$config" --work-dir "$dir" --resume
  touch "$dir/finished"
fi

images=$(find "$dir" -name vis_image -type d | sort | tail -n 1)
cp "$(find "$images" -name 'val_img_*.png' | sort -V | tail -n 1)" "$dir/detections.png"
cp "$(find "$images" -name 'learned_activations_*.png' | sort -V | tail -n 1)" "$dir/functions.png"
"$python" - "$dir" <<'EOF'
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
lines = [line for log in sorted(folder.glob('*/vis_data/scalars.json')) for line in log.open()]
score = [row for row in map(json.loads, lines) if 'coco/segm_mAP' in row][-1]
print('[demo] on held-out images (pycocotools):')
for kind in ('bbox', 'segm'):
    ap, ap50 = score[f'coco/{kind}_mAP'], score[f'coco/{kind}_mAP_50']
    print(f'[demo]   {kind}: AP {ap:.3f}, AP50 {ap50:.3f}')
print(f'[demo] detections (truth left, prediction right): {folder}/detections.png')
print(f'[demo] learned functions: {folder}/functions.png')
print('[demo] again from the start: make clean-demo demo')
EOF
