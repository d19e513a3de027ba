# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Breaks CUDA's own code, and the formulas, one thing at a time, and sees the emulated tests fail.

python tests/cuda_emulator/mutants.py [NUMBER ...] takes about half a minute for each. What a
mutant builds anew is linked first, so that its templates are those that count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import build

ENGINE, PLAN, SAMPLES = 'cuda/engine.cuh', 'cuda/plan.h', 'cuda/samples.cuh'
TABLES_CU, DYRELU, CPAB_TABLE = 'cuda/tables.cu', 'cuda/dyrelu.cu', 'cuda/cpab_table.cu'
SUMS, NORM = 'cuda/sums.cuh', 'cuda/norm.cu'
PWLU_OP = 'ops/pwlu.cpp'
PWLU, PAU, CPAB = 'formulas/pwlu.h', 'formulas/pau.h', 'formulas/cpab.h'
LINEAR, STORAGE = 'formulas/piecewise_linear.h', 'formulas/storage.h'
AFFINE, FIELDS = 'formulas/max_affine.h', 'formulas/cpab_table.h'
# What is built anew: a source in csrc, or kernels or tables of some formulas alone, in float32.
ANY = ('kernels', 'Pwlu', 'Pau')
WITH = {n: ('kernels', n) for n in ('Pwlu', 'Pau', 'PiecewiseLinear', 'Arelu', 'Cpab')}
OF = {name: ('tables', name) for name in WITH}
# (file, what is there, what takes its place, what is built anew).
MUTANTS = [
    (ENGINE, '/ A::kWidth * kVector;', '/ A::kWidth * kVector + 1;', ANY),
    (ENGINE, ': T(0);\n    }\n    __syncthreads();', ': T(0);\n    }', ANY),
    (ENGINE, '    __syncthreads();\n    const int64_t entry', '    const int64_t entry', ANY),
    (ENGINE, '__syncthreads();  // the next pass', '// the next pass', ANY),
    (ENGINE, 'threads + threadIdx.x);\n  __syncthreads();', 'threads + threadIdx.x);', ANY),
    (ENGINE, 'other > 0; other /= 2', 'other > 1; other /= 2', ANY),
    (ENGINE, 'int other = kWarp / 2', 'int other = kWarp / 4', ANY),
    (ENGINE, 'stop = begin + task.chunk;', 'stop = begin + task.chunk - 1;', ANY),
    (ENGINE, 'first_channel + threadIdx.x % A::kWidth;', 'first_channel;', ANY),
    (ENGINE, 'shared + threadIdx.x % A::kWidth', 'shared + (threadIdx.x + 1) % A::kWidth', ANY),
    (ENGINE, 'offset += task.next_run;', '', ANY),
    (ENGINE, '0 <= bin && bin < count', '0 <= bin && bin < count - 1', ANY),
    (ENGINE, 'if (first != 0) continue;', 'if (first != 0 || j != 0) continue;', ANY),
    (ENGINE, 't < threads; t += kWarp', 't < threads; t += 2 * kWarp', ANY),
    (ENGINE, 'position = positions[j] + v;', 'position = positions[j];', ANY),
    (PLAN, 'bins_per_pass * sums_bytes(threads);', 'bins_per_pass;', PWLU_OP),
    (PLAN, 'task.step_inner = task.step % task.inner', 'task.step_inner = 0', PWLU_OP),
    (PLAN, 'divide_up(task.elements, task.chunk);', 'task.elements / task.chunk;', PWLU_OP),
    (SAMPLES, 'other = kWarp / 2', 'other = kWarp / 4', DYRELU),
    (SAMPLES, 'if (lane == 0) data.sums', 'if (lane == 1) data.sums', DYRELU),
    (SAMPLES, 'task.pixels + at(r) + v]', 'task.pixels + at(r)]', DYRELU),
    (SAMPLES, 'if (present) {', 'if (true) {', DYRELU),
    (SAMPLES, 'first + lane : item.first;', 'first + (lane ^ 1) : item.first;', DYRELU),
    (SUMS, 'k += kWarp', 'k += kWarp + 1', ('tables', 'Pwlu', 'Pau')),
    (TABLES_CU, 'entry % groups', 'entry % (groups + 1)', ('tables', 'Pwlu', 'Pau')),
    (SUMS, '  }\n  __syncthreads();\n}', '  }\n}', ('tables', 'Pwlu', 'Pau')),
    (CPAB_TABLE, 'work(k);\n    __syncthreads();', 'work(k);', CPAB_TABLE),
    # A norm in front of them.
    (ENGINE, 'shift = numbers[task.channels]', 'shift = numbers[0]', WITH['Pwlu']),
    (ENGINE, 'center = numbers[2 * task.channels]', 'center = 0', WITH['Pwlu']),
    (ENGINE, 'if (norm.constant) gz *= scale;', '', WITH['Pwlu']),
    (ENGINE, 'z : z + static_cast<T>(residual)', 'z : z', WITH['Pwlu']),
    (ENGINE, 'if (A::kNorm && first == 0)', 'if (A::kNorm)', WITH['Pwlu']),
    (ENGINE, 'to[blockDim.x] = product', 'to[blockDim.x] = sum', WITH['Pwlu']),
    (ENGINE, '(task.per_column - 1) + member)', '(task.per_column - 1))', WITH['Pau']),
    (ENGINE, 'channel / task.per_column', 'channel % task.per_column', WITH['Pwlu']),
    (PLAN, 'shared_bytes = table_bytes + more', 'shared_bytes = table_bytes', PWLU_OP),
    (SUMS, 'member = k - chunk * sums.per_group', 'member = 0', OF['Pwlu']),
    (NORM, '-scale * sum / count', 'scale * sum / count', NORM),
    (NORM, 'inv_std * inv_std * product', 'inv_std * product', NORM),
    (NORM, 'square - shifted * shifted', 'square', NORM),
    (NORM, 'spread * count / (count - 1)', 'spread', NORM),
    (NORM, 'first - first == 0 ? first : 0', 'first', NORM),
    # Formulas, which the CPU's kernels have in common.
    (PWLU, 'kPwluMinWidth = 1e-6', 'kPwluMinWidth = 1e-5', OF['Pwlu']),
    (PWLU, 'crossed ? left + kPwluMinWidth : right,', 'right,', OF['Pwlu']),
    (PWLU, 'k < last, k, last', 'k < last, k, last - S::set(1)', WITH['Pwlu']),
    (PWLU, 'x >= upper, last', 'x > upper, last', WITH['Pwlu']),
    (PWLU, 'x < lower, S::set(-1)', 'x <= lower, S::set(-1)', WITH['Pwlu']),
    (PWLU, 'k > last, upper, inner', 'k > last, lower, inner', WITH['Pwlu']),
    (PWLU, 'inference ? x : x - left_edge(k)', 'x - left_edge(k)', WITH['Pwlu']),
    (PWLU, 'gy * (x - left_edge(k))', 'gy * x', WITH['Pwlu']),
    (PWLU, 'share + (k - n) * s0(k)', 'share + k * s0(k)', OF['Pwlu']),
    (PWLU, 'carried + s0(k) - share', 'carried + s0(k)', OF['Pwlu']),
    (PWLU, 'to_left = -f.left_slope', 'to_left = f.left_slope', OF['Pwlu']),
    (PAU, 'da, -da', 'da, da', WITH['Pau']),
    (PAU, 'S::fma(w, dp, minus_wf * da)', 'S::fma(w, dp, -minus_wf * da)', WITH['Pau']),
    (PAU, 'a >= S::set(0), one', 'a > S::set(0), one', WITH['Pau']),
    (PAU, 'is_far(x, lane)) S::put', 'false) S::put', WITH['Pau']),
    (PAU, 'value = value * PauNoise', 'value = value + 0 * PauNoise', WITH['Pau']),
    (PAU, 'top + k - 2 * bottom', 'top + k - bottom', WITH['Pau']),
    (PAU, 'bottom > 0 && b(bottom) == 0', 'false', WITH['Pau']),
    (PAU, 'a * odd >= 0', 'a >= 0', WITH['Pau']),
    (PAU, 'mix(key ^ of_row) >> 8', 'mix(key) >> 8', WITH['Pau']),
    (PAU, 'negative ? -sum : sum', 'sum', OF['Pau']),
    (PAU, 'magnitudes && value < 0', 'false', OF['Pau']),
    (LINEAR, 'passed = x >= rows.at(s);  // false', 'passed = x > rows.at(s);  // false',
     WITH['PiecewiseLinear']),
    (LINEAR, 'terms[1] = gy * x', 'terms[1] = gy', WITH['PiecewiseLinear']),
    (LINEAR, 'sums(2 * s + 1)', 'sums(2 * s)', OF['PiecewiseLinear']),
    (LINEAR, 'alpha < kLow ? kLow : ', '', OF['Arelu']),
    (LINEAR, 'kLow <= alpha && alpha <= kHigh ? sums(1) : 0', 'sums(1)', OF['Arelu']),
    (LINEAR, 's * (1 - s) * sums(3)', 's * sums(3)', OF['Arelu']),
    (CPAB, 'terms[1] = gt * z * g * h', 'terms[1] = gt * z * g', WITH['Cpab']),
    (CPAB, 'S::fma(rest * w, q, g)', 'S::fma(rest, q, g)', WITH['Cpab']),
    (CPAB, 'x >= breakpoints.at(next)', 'x > breakpoints.at(next + 1)', WITH['Cpab']),
    (CPAB, 'bounded<S>(point.t) * M::normal_pdf(x)', 'bounded<S>(point.t)', WITH['Cpab']),
    (CPAB, 'bounded<S>(x - p.at(i))', '(x - p.at(i))', WITH['Cpab']),
    (CPAB, 'x == x, segment(x)', 'true, segment(x)', WITH['Cpab']),
    (CPAB, 'outside > S::set(0), slope', 'outside > S::set(-1), slope', WITH['Cpab']),
    (FIELDS, 'slow_start ? start : stop', 'slow_start ? stop : start', CPAB_TABLE),
    (FIELDS, 'left > 0 ? g_time[cell] : -g_time[cell]', 'g_time[cell]', CPAB_TABLE),
    (FIELDS, 'preimages[k] = origin(k + 1, 1)', 'preimages[k] = origin(k + 1, -1)', CPAB_TABLE),
    (AFFINE, 'value >= best', 'value > best', DYRELU),
    (AFFINE, ' | (value != value)', '', DYRELU),
    (AFFINE, 'S::fma(gy, x, sums[k])', 'S::fma(gy, slope, sums[k])', DYRELU),
    (STORAGE, 'magnitude >= 0x400', 'magnitude >= 0xc00', OF['Pwlu']),
    (STORAGE, 'magnitude + 0xfff', 'magnitude + 0x1000', OF['Pwlu']),
    (STORAGE, '(bits + 0x7fff', '(bits + 0x8000', OF['Pwlu']),
    (STORAGE, 'rounded - 0x3f000000', 'rounded - 0x3f000001', OF['Pwlu']),
]  # fmt: skip
# The names of the tests that run what is built anew.
TESTS = {
    'Pwlu': 'pwlu', 'Pau': 'pau or polynomial or rational', 'PiecewiseLinear': 'linear',
    'Arelu': 'relu or elsa', 'Cpab': 'cpab or ditac', PWLU_OP: 'pwlu', CPAB_TABLE: 'test_cpab',
    DYRELU: 'dyrelu', NORM: 'norm',
}  # fmt: skip
FILES = ('norm', 'arelu', 'dyrelu', 'pwlu', 'pau', 'cpab', 'elementwise', 'cuda')


def source_of(part: str | tuple[str, ...], csrc: Path) -> str:
    """Returns C++ that includes a source, for all formulas or for some."""
    if isinstance(part, str):
        return f'#include "{csrc / part}"\n'
    kind, *formulas = part
    uses = ' '.join(f'use({name}Settings);' for name in formulas)
    return (
        f'#include "{csrc}/formulas/all.h"\n'
        '#undef MMACT_FOR_EACH_SETTINGS\n'
        f'#define MMACT_FOR_EACH_SETTINGS(use) {uses}\n'
        '#define MMACT_RAW float\n'
        f'#include "{csrc}/cuda/{"kernels.inc" if kind == "kernels" else "tables.cu"}"\n'
    )


def killer(library: Path, tests: str) -> str:
    """Returns the test marked cuda that notices, or nothing."""
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-x', '-m', 'cuda', '-p', 'no:cacheprovider',
         *(f'tests/test_ops/test_{name}.py' for name in FILES), '-k', tests],
        env={**os.environ, 'MMACT_EMULATED_CUDA': str(library)},
        cwd=build.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    failed = re.search(r'^(?:FAILED|ERROR) tests/test_ops/(\S+)', result.stdout, re.MULTILINE)
    if result.returncode == 1 and failed:
        return failed[1]
    if result.returncode < 0:
        return f'signal {-result.returncode}'
    if result.returncode or ' passed' not in result.stdout:
        sys.exit(f'the tests did not run:\n{result.stdout[-3000:]}{result.stderr[-3000:]}')
    return ''


def build_mutant(number: int, original: Path, folder: Path, prelude: Path) -> Path:
    """Returns the library of a mutant, built in a folder."""
    name, old, new, part = MUTANTS[number]
    csrc = folder / 'csrc'
    shutil.copytree(build.ROOT / 'csrc', csrc)
    (csrc / name).write_text((csrc / name).read_text().replace(old, new, 1))
    (folder / 'mutant.cpp').write_text(source_of(part, csrc))
    build.compile_one(folder / 'mutant.cpp', folder / 'mutant.o', prelude)
    # A whole source takes the place of the original's; templates are merged.
    replaced = f'{Path(part).name}.o' if isinstance(part, str) else ''
    rest = [str(o) for o in sorted(original.parent.glob('*.o')) if o.name != replaced]
    build.link([str(folder / 'mutant.o'), *rest], folder / 'mutant.so')
    return folder / 'mutant.so'


def main() -> None:
    """Prints which mutants die, and of which tests."""
    for number, (name, old, *_) in enumerate(MUTANTS):
        if old not in (build.ROOT / 'csrc' / name).read_text():
            sys.exit(f'mutant {number} has nothing to change in {name}: {old!r}')
    original = build.build()
    chosen = [int(n) for n in sys.argv[1:]] or range(len(MUTANTS))
    with tempfile.TemporaryDirectory() as folder:
        alive = run(chosen, original, build.precompile(Path(folder)))
    print(f'{len(chosen) - len(alive)} of {len(chosen)} mutants died; alive: {alive}')
    sys.exit(bool(alive))


def run(chosen: Sequence[int], original: Path, prelude: Path) -> list[int]:
    """Prints what becomes of mutants; returns the numbers of those that live."""
    alive = []
    for number in chosen:
        started = time.monotonic()
        name, old, new, part = MUTANTS[number]
        tests = ' or '.join(TESTS[p] for p in ([part] if isinstance(part, str) else part[1:]))
        with tempfile.TemporaryDirectory() as folder:
            test = killer(build_mutant(number, original, Path(folder), prelude), tests)
        print(
            f'{number:2} {test or "ALIVE"}  {name}: {old!r} -> {new!r} '
            f'({time.monotonic() - started:.0f} s)',
            flush=True,
        )
        alive += [] if test else [number]
    return alive


if __name__ == '__main__':
    main()
