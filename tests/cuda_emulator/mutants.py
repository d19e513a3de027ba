# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Breaks CUDA's own code, and the formulas, one thing at a time, and sees the emulated tests fail.

python tests/cuda_emulator/mutants.py [NUMBER ...] takes about a minute for each. The objects of a
mutant are linked first, so that its templates are those that count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build

ENGINE, PLAN, SAMPLES = 'cuda/engine.cuh', 'cuda/plan.h', 'cuda/samples.cuh'
KERNELS, DYRELU, TABLES = 'cuda/kernels_float.cu', 'cuda/dyrelu.cu', 'cuda/tables.cu'
PWLU, PAU, CPAB = 'formulas/pwlu.h', 'formulas/pau.h', 'formulas/cpab.h'
LINEAR = 'formulas/piecewise_linear.h'
# (file, what is there, what takes its place, source to build anew).
MUTANTS = [
    (ENGINE, '/ A::kWidth * kVector;', '/ A::kWidth * kVector + 1;', KERNELS),
    (ENGINE, ': T(0);\n    }\n    __syncthreads();', ': T(0);\n    }', KERNELS),
    (ENGINE, '    __syncthreads();\n    const int64_t entry', '    const int64_t entry', KERNELS),
    (ENGINE, '__syncthreads();  // the next pass', '// the next pass', KERNELS),
    (ENGINE, 'threadIdx.x] = sums[e];\n  __syncthreads();', 'threadIdx.x] = sums[e];', KERNELS),
    (ENGINE, 'other > 0; other /= 2', 'other > 1; other /= 2', KERNELS),
    (ENGINE, 'int other = kWarp / 2', 'int other = kWarp / 4', KERNELS),
    (ENGINE, 'stop = begin + task.chunk;', 'stop = begin + task.chunk - 1;', KERNELS),
    (ENGINE, 'first_channel + threadIdx.x % A::kWidth;', 'first_channel;', KERNELS),
    (ENGINE, 'shared + threadIdx.x % A::kWidth', 'shared + (threadIdx.x + 1) % A::kWidth', KERNELS),
    (ENGINE, 'offset += task.next_run;', '', KERNELS),
    (ENGINE, '0 <= bin && bin < count', '0 <= bin && bin < count - 1', KERNELS),
    (ENGINE, 'if (first == 0) batch.store', 'if (first >= 0 && j == 0) batch.store', KERNELS),
    (ENGINE, 't < threads; t += kWarp', 't < threads; t += 2 * kWarp', KERNELS),
    (ENGINE, 'positions[j] + v) * task.channels', 'positions[j]) * task.channels', KERNELS),
    (PLAN, 'bins_per_pass * sums_bytes(threads);', 'bins_per_pass;', 'ops/pwlu.cpp'),
    (PLAN, 'task.step_inner = task.step % task.inner', 'task.step_inner = 0', 'ops/pwlu.cpp'),
    (PLAN, 'divide_up(task.elements, task.chunk);', 'task.elements / task.chunk;', 'ops/pwlu.cpp'),
    (SAMPLES, 'other = kWarp / 2', 'other = kWarp / 4', DYRELU),
    (SAMPLES, 'if (lane == 0) data.sums', 'if (lane == 1) data.sums', DYRELU),
    (SAMPLES, 'task.pixels + at(r) + v]', 'task.pixels + at(r)]', DYRELU),
    (SAMPLES, 'if (present) {', 'if (true) {', DYRELU),
    (SAMPLES, 'first + lane : item.first;', 'first + (lane ^ 1) : item.first;', DYRELU),
    (TABLES, 'chunk += kWarp', 'chunk += kWarp + 1', TABLES),
    (TABLES, 'entry % groups', 'entry % (groups + 1)', TABLES),
    (TABLES, '  }\n  __syncthreads();\n}', '  }\n}', TABLES),
    ('cuda/cpab_table.cu', 'work(k);\n    __syncthreads();', 'work(k);', 'cuda/cpab_table.cu'),
    # Formulas, which the CPU's kernels have in common.
    (PWLU, 'k < last, k, last', 'k < last, k, last - S::set(1)', KERNELS),
    (PWLU, 'x >= upper, last', 'x > upper, last', KERNELS),
    (PWLU, 'x < lower, S::set(-1)', 'x <= lower, S::set(-1)', KERNELS),
    (PWLU, 'gy * (x - left_edge(k))', 'gy * x', KERNELS),
    (PWLU, 'share + (k - n) * s0(k)', 'share + k * s0(k)', TABLES),
    (PWLU, 'carried + s0(k) - share', 'carried + s0(k)', TABLES),
    (PWLU, 'crossed ? left + kPwluMinWidth : right,', 'right,', TABLES),
    (PAU, 'da, -da', 'da, da', KERNELS),
    (PAU, 'S::fma(w, dp, minus_wf * da)', 'S::fma(w, dp, -minus_wf * da)', KERNELS),
    (PAU, 'is_far(x, lane)) S::put', 'false) S::put', KERNELS),
    (PAU, 'negative ? -sum : sum', 'sum', TABLES),
    (LINEAR, 'passed = x >= rows.at(s);  // false', 'passed = x > rows.at(s);  // false', KERNELS),
    (LINEAR, 'terms[1] = gy * x', 'terms[1] = gy', KERNELS),
    (LINEAR, 'sums(2 * s + 1)', 'sums(2 * s)', TABLES),
    (CPAB, 'terms[1] = gt * z * g * h', 'terms[1] = gt * z * g', KERNELS),
    (CPAB, 'x >= breakpoints.at(next)', 'x > breakpoints.at(next + 1)', KERNELS),
    (CPAB, 'gx = gy * bounded(point.t) * M::normal_pdf(x)', 'gx = gy * bounded(point.t)', KERNELS),
    ('formulas/storage.h', 'magnitude >= 0x400', 'magnitude >= 0x800', KERNELS),
]


def tests_fail(library: Path, source: str) -> bool:
    """Whether a test marked cuda notices."""
    files = {DYRELU: ['test_dyrelu.py'], 'cuda/cpab_table.cu': ['test_cpab.py']}.get(
        source, ['test_elementwise.py', 'test_pwlu.py', 'test_cuda.py', 'test_cpab.py']
    )
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-x', '-m', 'cuda', '-p', 'no:cacheprovider',
         *(f'tests/test_ops/{name}' for name in files)],
        env={**os.environ, 'MMACT_EMULATED_CUDA': str(library)},
        cwd=build.ROOT,
        capture_output=True,
        check=False,
    )  # fmt: skip
    return result.returncode != 0


def main() -> None:
    original = build.build()
    objects = sorted(original.parent.glob('*.o'))
    chosen = [int(n) for n in sys.argv[1:]] or range(len(MUTANTS))
    alive = []
    for number in chosen:
        name, old, new, source = MUTANTS[number]
        with tempfile.TemporaryDirectory() as folder:
            csrc = Path(folder) / 'csrc'
            shutil.copytree(build.ROOT / 'csrc', csrc)
            text = (csrc / name).read_text()
            assert old in text, f'mutant {number} has nothing to change: {old!r}'
            (csrc / name).write_text(text.replace(old, new, 1))
            own = Path(folder) / 'mutant.o'
            build.compile_one(csrc / source, own)
            library = Path(folder) / 'mutant.so'
            rest = [str(o) for o in objects if o.name != f'{Path(source).name}.o']
            build.link([str(own), *rest], library)
            dead = tests_fail(library, source)
        print(f'{number:2} {"dead" if dead else "ALIVE"}  {name}: {old!r} -> {new!r}', flush=True)
        alive += [] if dead else [number]
    print(f'{len(chosen) - len(alive)} of {len(chosen)} mutants died; alive: {alive}')
    sys.exit(bool(alive))


if __name__ == '__main__':
    main()
