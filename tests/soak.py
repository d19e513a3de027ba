# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Kills the demo's training at random points, resumes it, and compares with an unbroken one.

``make soak``. The demo's Mask R-CNN with its augmentation and its RPN's sampling, on a smaller
miniature, with a checkpoint at every iteration, so that kills also come while one is written.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 9


def train(data: Path, work_dir: Path, *options: str) -> subprocess.Popen:
    """Starts a training in a process group of its own."""
    command = [
        *(sys.executable, 'tools/train.py', 'configs/demo/mask-rcnn_pwlu_mini-coco.py'),
        *('--work-dir', str(work_dir), *options, '--cfg-options'),
        f'train_dataloader.dataset.data_root={data}/',
        f'val_dataloader.dataset.data_root={data}/',
        f'val_evaluator.ann_file={data}/annotations/instances_val2017.json',
        f'train_cfg.max_iters={LENGTH}',
        f'train_cfg.val_interval={LENGTH}',
        'default_hooks.checkpoint.interval=1',
        'custom_hooks.0.phase1=4',
        'randomness.seed=1',
    ]
    with open(f'{work_dir}.log', 'a') as log:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def main() -> None:
    """Prints a line for each kill, and exits with status 1 if a training ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--kills', type=int, default=20, help='default: 20')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        maker = [sys.executable, 'tools/dataset_converters/make_mini.py', 'coco', root / 'coco']
        sizes = ['--num-train', '12', '--num-val', '2', '--size', '96', '128']
        subprocess.run([*maker, *sizes], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        assert train(root / 'coco', root / 'whole').wait() == 0
        duration = time.monotonic() - began
        last = f'iter_{LENGTH}.pth'
        whole = torch.load(root / 'whole' / last, 'cpu', weights_only=False)['state_dict']
        survived = 0
        for number in range(args.kills):
            work_dir = root / f'killed_{number}'
            process = train(root / 'coco', work_dir)
            time.sleep(moments.uniform(0.3, 1) * duration)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found = len(list(work_dir.glob('iter_*.pth')))
            parts = len(list(work_dir.glob('*.part')))
            ended = train(root / 'coco', work_dir, '--resume').wait()
            same = False
            if ended == 0:
                state = torch.load(work_dir / last, 'cpu', weights_only=False)['state_dict']
                same = all(torch.equal(whole[key], value) for key, value in state.items())
            survived += same
            result = 'the same bits' if same else f'ANOTHER END (status {ended})'
            files = f'{found} checkpoints, {parts} half written'
            print(f'kill {number + 1}: {files}: {result}', flush=True)
    print(f'{survived} of {args.kills} ended with the same bits')
    sys.exit(survived != args.kills)


if __name__ == '__main__':
    main()
