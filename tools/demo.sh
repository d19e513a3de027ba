#!/usr/bin/env bash
# Trains a demo config, and says where its score and pictures are. An interrupted run goes on where it
# was; a finished one is not repeated.
# Usage: tools/demo.sh PYTHON CONFIG WORK_DIR TARGET
set -euo pipefail
python=$1 config=$2 dir=$3 target=$4

# PyTorch allocates and frees large tensors all the time on a CPU. Keeping freed memory, instead of
# giving it back to the system each time, avoids page faults.
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296

if [ ! -f "$dir/finished" ]; then
  echo "[demo] training with $config (some minutes on 2 cores); log in $dir"
  "$python" tools/train.py "$config" --work-dir "$dir" --resume
  touch "$dir/finished"
fi

echo '[demo] on held-out images:'
"$python" - "$dir" <<'EOF'
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
lines = [line for log in sorted(folder.glob('*/vis_data/scalars.json')) for line in log.open()]
rows = list(map(json.loads, lines))
kinds = {
    'boxes': {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50'},
    'masks': {'AP': 'coco/segm_mAP', 'AP50': 'coco/segm_mAP_50'},
    'key points': {'AP': 'coco/AP', 'AP50': 'coco/AP .5'},
    'classes': {'mIoU %': 'mIoU', 'pixels right %': 'aAcc'},
}
for kind, names in kinds.items():
    scores = [row for row in rows if row.keys() >= set(names.values())]
    if scores:
        print(f'[demo]   {kind}:', ', '.join(f'{n} {scores[-1][k]:.3g}' for n, k in names.items()))
EOF

images=$(find "$dir" -name vis_image -type d | sort | tail -n 1)
if [ -n "$images" ]; then
  found=$([ "$target" = demo-seg ] && echo segmentation || echo detections)
  cp "$(find "$images" -name 'val_*.png' | sort -V | tail -n 1)" "$dir/$found.png"
  echo "[demo] $found (truth left, prediction right): $dir/$found.png"
  functions=$(find "$images" -name 'learned_activations_*.png' | sort -V | tail -n 1)
  if [ -n "$functions" ]; then
    cp "$functions" "$dir/functions.png"
    echo "[demo] learned functions: $dir/functions.png"
  fi
else
  checkpoint=$(cat "$dir/last_checkpoint")
  "$python" tools/analysis_tools/draw_poses.py "$config" "$checkpoint" --out "$dir/poses.png" >/dev/null
  "$python" tools/analysis_tools/plot_dynamics.py "$config" "$checkpoint" --layers '(conv\.1|depthwise_conv)\.activate' \
    --out "$dir/dynamics.png" >/dev/null
  echo "[demo] skeletons of people it has not seen: $dir/poses.png"
  echo "[demo] output of activations against their input: $dir/dynamics.png"
fi
echo "[demo] again from the start: make clean-demo $target"
