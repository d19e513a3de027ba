# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prints what the CUDA kernels need: registers, stack, spills and occupancy.

For each architecture, formula, kernel and arithmetic the worst of its variants (layouts, storage
types). A stack holds what does not fit into registers, and arrays that are indexed at run time.
Read from the built mmact/_C*.so, which needs cuobjdump of the CUDA toolkit and does not tell
spills, or from what ptxas -v printed: nvcc -Xptxas -v ... csrc/cuda/*.cu 2> LOG.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Registers and threads of a multiprocessor, from compute capability 8.0 on; 8.6, 8.9 and 12.0 hold
# 1536 threads.
REGISTERS, THREADS = 65536, {'sm_80': 2048, 'sm_90': 2048, 'sm_100': 2048}
BLOCK = {'pixel_runs': 128, 'channel_runs': 128, 'group': 64, 'table': 128, 'gradients': 128}


def occupancy(arch: str, registers: int, threads: int) -> float:
    """Threads that registers leave room for, as a share of what a multiprocessor holds."""
    per_warp = -(-registers * 32 // 256) * 256
    blocks = REGISTERS // (per_warp * threads // 32)
    most = THREADS.get(arch, 1536)
    return min(blocks * threads, most // threads * threads) / most


Usage = tuple[str, str, int, int, int]  # architecture, kernel, registers, stack, spills in bytes


def usage_of_log(log: Path) -> list[Usage]:
    """What ptxas -v printed of every kernel."""
    found, name, arch, stack, spills = [], '', '', 0, 0
    for line in log.read_text().splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name, arch = entry.groups()
        elif frame := re.search(r'(\d+) bytes stack frame, (\d+) bytes spill stores', line):
            stack, spills = map(int, frame.groups())
        elif name and (used := re.search(r'Used (\d+) registers', line)):
            found.append((arch, name, int(used[1]), stack, spills))
            name = ''
    return found


def usage_of_library(cuobjdump: str, library: Path) -> list[Usage]:
    """What cuobjdump says of every kernel."""
    command = [cuobjdump, '-res-usage', library]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f'no CUDA kernels in {library} (build them with MMACT_CUDA=1): {result.stderr}')
    found, arch = [], ''
    for line in result.stdout.splitlines():
        if line.startswith('arch = '):
            arch = line.removeprefix('arch = ')
        elif 'Function ' in line:
            name = line.split()[1].rstrip(':')
        elif 'REG:' in line:
            registers, stack = (int(re.search(rf'{k}:(\d+)', line)[1]) for k in ('REG', 'STACK'))
            found.append((arch, name, registers, stack, 0))
    return found


def demangled(found: list[Usage]) -> list[Usage]:
    """With kernels' names as in C++."""
    mangled = '\n'.join(name for _, name, *_ in found)
    result = subprocess.run(['c++filt'], input=mangled, capture_output=True, text=True, check=True)
    names = result.stdout.splitlines()
    return [(a, n, *rest) for (a, _, *rest), n in zip(found, names, strict=True)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cuobjdump', default='cuobjdump', help='the program')
    parser.add_argument('--log', type=Path, help='what ptxas -v printed, in place of the library')
    args = parser.parse_args()
    libraries = sorted((ROOT / 'mmact').glob('_C*.so'))
    if args.log:
        found = usage_of_log(args.log)
    elif libraries and shutil.which(args.cuobjdump):
        found = usage_of_library(args.cuobjdump, libraries[0])
    else:
        sys.exit('needs mmact/_C*.so, built with CUDA, and cuobjdump (--cuobjdump PATH), or --log')
    worst: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for arch, name, registers, stack, spills in demangled(found):
        kernel = re.search(r'(\w+)_kernel', name)[1]
        formula = re.search(
            r'(PauFormula<[^>]*>|\w+Settings|\w+Formula(?:<-?\d+>)?'
            r'|CpabMakeTables|CpabThetaGradients|Dyrelu\w+<[^>]*>|Squeeze\w+<[^>]*>)', name
        )  # fmt: skip
        arithmetic = 'double' if re.search(r'<double', name) else 'float'
        label = formula[1].replace('mmact::', '') if formula else '-'
        label += ' behind a norm' if re.search(r'Access<[^>]*true>', name) else ''
        row = worst[arch, label, kernel, arithmetic]
        row[0] += 1
        row[1:] = map(max, row[1:], (registers, stack, spills))
    names = ('arch', 'formula', 'kernel', 'arithmetic', 'variants', 'registers', 'stack, bytes')
    print(f'| {" | ".join(names)} | spilled, bytes | occupancy |')
    print('|---|---|---|---|---|---|---|---|---|')
    for (arch, label, kernel, arithmetic), (count, *most) in sorted(worst.items()):
        share = occupancy(arch, most[0], BLOCK.get(kernel, 256))
        if not args.log:
            most[2:] = ['?']  # the library does not tell
        cells = [arch, label, kernel, arithmetic, count, *most, f'{share:.0%}']
        print(f'| {" | ".join(map(str, cells))} |')


if __name__ == '__main__':
    main()
