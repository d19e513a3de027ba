#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Measures activations side by side and prints their time as a ratio to nn.ReLU's.

Needs torch alone. Every repetition runs all candidates, one after the other, on the same tensors,
so that whatever else the machine does falls on all of them; the table gives medians over the
repetitions, and the spread (the quartiles) of the ratios taken pair by pair. Each runs twice, and
the second counts: what is in the cache is then its own doing, not that of the one before. On a CPU,
memory that is freed stays with the process: whether the system has to give new pages for a result,
which takes longer than most activations, would otherwise be a matter of chance.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import json
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmact
from mmact.activations import (
    PAU,
    PWLU,
    Activation,
    AReLU,
    DiTAC,
    DyReLUB,
    DyReLUC,
    list_activations,
    to_pwlu,
)
from mmact.ops import cpab, reference
from mmact.ops.cpab import apply_table, segment_table


class EagerPWLU(PWLU):
    """PWLU in plain PyTorch operations: what the kernels are compared with."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        return reference.pwlu(x, *self._parameters_in_order(), channel_dim=1)


class EagerAReLU(AReLU):
    """AReLU in plain PyTorch operations."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        return reference.arelu(x, self.alpha, self.beta)


class EagerPAU(PAU):
    """Eq. 2 of PAU in plain PyTorch operations, as one would write it without a kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        p, q = torch.zeros_like(x), torch.zeros_like(x)
        for a in reversed(self.numerator.unbind()):
            p = p * x + a
        for b in reversed(self.denominator.unbind()):
            q = (q + b) * x
        return p / (1 + q.abs())


class EagerDyReLUB(DyReLUB):
    """Dynamic ReLU B in plain PyTorch operations, as one would write it without a kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        slopes, intercepts = self.coefficients(x.mean((2, 3)))[..., None, None].chunk(2, 1)
        return (slopes * x.unsqueeze(1) + intercepts).amax(1)


class EagerDyReLUC(EagerDyReLUB, DyReLUC):
    """Dynamic ReLU C in plain PyTorch operations."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        logits = F.conv2d(x, self.attention_weight[None, :, None, None])
        return super().forward(x) * self.attend(logits)


class EagerDiTAC(DiTAC):
    """DiTAC in plain PyTorch operations."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        table = segment_table(self.rows('theta'), self.domain, dtype=x.dtype)
        return apply_table(x, *table, 1, 'gelu')


class QuantisedDiTAC(DiTAC):
    """The DiTAC authors' approach: inputs are rounded to the 2,048 steps of a table of T."""

    STEPS = 2048

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to x."""
        a, b = self.domain
        grid = torch.linspace(a, b, self.STEPS, device=x.device)
        table = cpab(grid, self.rows('theta'), self.domain)
        slopes = torch.gradient(table.detach(), spacing=(grid,))[0]
        index = ((x.detach() - a) * ((self.STEPS - 1) / (b - a))).round().long()
        index = index.clamp(0, self.STEPS - 1)
        t = F.embedding(index, torch.stack([table, slopes], 1))
        t = t[..., 0] + t[..., 1] * (x - x.detach())
        return torch.where((x >= a) & (x <= b), t, x) * torch.special.ndtr(x)


def layer(cls: type[Activation], channels: int) -> Activation:
    """A layer with its default arguments."""
    return cls(channels) if 'num_channels' in inspect.signature(cls).parameters else cls()


def ditac(kind: type[DiTAC] = DiTAC, **options) -> DiTAC:
    """A DiTAC, or another way to work it out, with a transformation that is not the identity."""
    torch.manual_seed(0)
    return kind(init='prior', variance=0.01, **options)


def mmdet_dyrelu(channels: int) -> nn.Module:
    """MMDetection's Dynamic ReLU, which DyHead uses."""
    from mmdet.models.layers import DyReLU

    return DyReLU(channels)


def compiled(make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """The same candidate through torch.compile."""

    def build(channels: int) -> nn.Module:
        # All candidates of a kind are one function to its cache, which otherwise holds 8 graphs.
        torch._dynamo.config.recompile_limit = 256
        return torch.compile(make(channels), fullgraph=True)

    return build


class Copy(nn.Module):
    """Moves as much memory as any forward must: its time is that of the bandwidth."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns a copy of x."""
        return x.clone()


CANDIDATES: dict[str, Callable[[int], nn.Module]] = {
    'nn.ReLU': lambda channels: nn.ReLU(),
    'copy': lambda channels: Copy(),
    'nn.SiLU': lambda channels: nn.SiLU(),
    'nn.PReLU(C)': lambda channels: nn.PReLU(channels),
    'PWLU': PWLU,
    'PWLU layer-wise': lambda channels: PWLU(num_groups=1),
    'PWLU eager': EagerPWLU,
    'PWLU eager, compiled': compiled(EagerPWLU),
    'AReLU': lambda channels: AReLU(),
    'AReLU eager': lambda channels: EagerAReLU(),
    'AReLU eager, compiled': compiled(lambda channels: EagerAReLU()),
    'PAU': lambda channels: PAU(),
    'PAU channel-wise': lambda channels: PAU(channels, num_groups=None),
    'PAU eager': lambda channels: EagerPAU(),
    'PAU eager, compiled': compiled(lambda channels: EagerPAU()),
    'nn.GELU': lambda channels: nn.GELU(),
    'DiTAC': lambda channels: ditac(),
    'DiTAC channel-wise': lambda channels: ditac(num_channels=channels, num_groups=None),
    'DiTAC as PWLU': lambda channels: to_pwlu(ditac())[0],
    'DiTAC quantised': lambda channels: ditac(QuantisedDiTAC),
    'DiTAC eager': lambda channels: ditac(EagerDiTAC),
    'DyReLUB': DyReLUB,
    'DyReLUB eager': EagerDyReLUB,
    'DyReLUB eager, compiled': compiled(EagerDyReLUB),
    'DyReLUC': DyReLUC,
    'DyReLUC eager': EagerDyReLUC,
    'DyReLUC eager, compiled': compiled(EagerDyReLUC),
}
for cls in dict.fromkeys(record.cls for record in list_activations()):
    # Maxout puts out fewer channels than the others.
    if issubclass(cls, Activation) and cls.__name__ not in ('Maxout', *CANDIDATES):
        CANDIDATES[cls.__name__] = partial(layer, cls)
if find_spec('mmdet'):
    CANDIDATES['mmdet DyReLU'] = mmdet_dyrelu

FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument(
        '--shape',
        type=int,
        nargs=4,
        action='append',
        metavar=('N', 'C', 'H', 'W'),
        help='shape of the input; may be repeated (default: three typical ones)',
    )
    parser.add_argument('--dtype', nargs='+', help='default: float32; on CUDA bfloat16 as well')
    parser.add_argument('--format', nargs='+', default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument('--only', nargs='+', help='candidates to measure beside nn.ReLU')
    parser.add_argument('--repeat', type=int, default=21, help='repetitions (default: 21)')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--compile', action='store_true', help='measure torch.compile as well')
    parser.add_argument('--out', type=Path, help='write all figures to this JSON file')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: there is no CUDA device here')
    unknown = set(args.only or ()) - set(CANDIDATES)
    if unknown:
        parser.error(f'--only: no candidate {sorted(unknown)}; there are {list(CANDIDATES)}')
    if args.repeat < 3:
        parser.error('--repeat must be at least 3')
    default_shapes = [(8, 128, 64, 64), (8, 256, 128, 128), (2, 64, 200, 304)]
    args.shape = [tuple(s) for s in args.shape or default_shapes]
    args.dtype = args.dtype or (['float32', 'bfloat16'] if args.device == 'cuda' else ['float32'])
    return args


def keep_memory() -> None:
    """Lets malloc hold on to what is freed, large blocks too; where there is no glibc, nothing."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: none given back


def environment(device: str) -> dict[str, str]:
    """Returns the circumstances of a measurement."""
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty'], cwd=root, capture_output=True, text=True
    ).stdout.strip()
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next((line.split(': ')[1] for line in lines if line.startswith('model name')), name)
    return {
        'device': torch.cuda.get_device_name() if device == 'cuda' else name,
        'threads': str(torch.get_num_threads()),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'torch': torch.__version__,
        'python': platform.python_version(),
        'mmact': f'{mmact.__version__} ({commit or "no git"})',
        'kernels': str(mmact.ops.has_kernel('pwlu', device)),
        'date': time.strftime('%Y-%m-%d'),
    }


def seconds(run: Callable[[], object], device: str) -> float:
    """The time of one run, the device's work included."""
    if device == 'cpu':
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def saved_inputs(module: nn.Module, x: Tensor) -> float:
    """Memory that the forward keeps for the backward, in sizes of the input."""
    storages = {}

    def count(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        module(x)
    return sum(storages.values()) / (x.numel() * x.element_size())


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Most bytes that a run holds at a time, beyond what is there before it."""
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        run()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    for event in sorted(events, key=lambda e: e.start_ns()):
        if (event.device_type() == torch.profiler.DeviceType.CPU) == (device == 'cpu'):
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def summary(values: list[float], others: list[float]) -> dict:
    """Median of times, in ms, and median and quartiles of their ratios to others, pair by pair."""
    times = torch.tensor(values)
    ratios = times / torch.tensor(others)
    low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {'ms': times.median().item() * 1e3, 'ratio': middle, 'quartiles': (low, high)}


def measure(modules: dict[str, nn.Module], x: Tensor, grad: Tensor, repeat: int) -> list[dict]:
    """Times forward in evaluation and forward with backward in training, interleaved."""
    device = x.device.type

    def forward(module: nn.Module) -> None:
        with torch.inference_mode():
            module(x)

    def both(module: nn.Module) -> None:
        module(x).backward(grad)
        x.grad = None

    times: dict[str, dict[str, list[float]]] = {
        name: {'forward': [], 'forward+backward': []} for name in modules
    }
    for kind, run in (('forward', forward), ('forward+backward', both)):
        for module in modules.values():
            module.train(kind != 'forward')
            run(module)  # warm-up, and compilation where there is one
        for _ in range(repeat):
            for name, module in modules.items():
                run(module)
                times[name][kind].append(seconds(lambda r=run, m=module: r(m), device))
    rows = []
    for name, module in modules.items():
        row = {
            'name': name,
            'saved': saved_inputs(module, x),
            'peak': peak_memory(lambda m=module: both(m), device) / (x.numel() * x.element_size()),
        }
        for kind, values in times[name].items():
            row[kind] = summary(values, times['nn.ReLU'][kind])
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [
        '| | forward (eval), ms | x ReLU | forward+backward, ms | x ReLU '
        '| kept for backward | peak memory |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        cells = [row['name']]
        for kind in ('forward', 'forward+backward'):
            low, high = row[kind]['quartiles']
            cells.append(f'{row[kind]["ms"]:.3f}')
            cells.append(f'{row[kind]["ratio"]:.2f} ({low:.2f} to {high:.2f})')
        cells += [f'{row["saved"]:.2f} inputs', f'{row["peak"]:.2f} inputs']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    info = environment(args.device)
    print(', '.join(f'{key}: {value}' for key, value in info.items()), flush=True)
    names = ['nn.ReLU', *(n for n in args.only or CANDIDATES if n != 'nn.ReLU')]
    if not args.compile and not args.only:
        names = [name for name in names if not name.endswith('compiled')]
    results = []
    for shape in args.shape:
        for dtype in args.dtype:
            for form in args.format:
                x = torch.randn(shape, device=args.device).to(getattr(torch, dtype))
                x = x.contiguous(memory_format=FORMATS[form]).requires_grad_()
                modules = {n: CANDIDATES[n](shape[1]).to(args.device) for n in names}
                for name, module in modules.items():
                    if name.startswith('nn.'):  # mmact takes reduced inputs with float32 parameters
                        module.to(x.dtype)
                rows = measure(modules, x, torch.randn_like(x), args.repeat)
                print(f'\n{shape}, {dtype}, {form}\n\n{table(rows)}', flush=True)
                results.append({'shape': shape, 'dtype': dtype, 'format': form, 'rows': rows})
    if args.out:
        args.out.write_text(json.dumps({'environment': info, 'results': results}, indent=2))
        print(f'\nwritten to {args.out}')


if __name__ == '__main__':
    main()
