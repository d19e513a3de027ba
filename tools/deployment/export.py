#!/usr/bin/env python
# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a trained model to ONNX or torch.export, in the cheapest equal form.

BatchNorms are folded into convolutions and PWLUs, and learned activations of one number become
PWLUs. What is exported is what maps tensors to tensors: backbone, neck and dense head as one graph,
and the box and mask heads of two-stage detectors as one graph each. Every graph is compared with
the model as it was trained, on another batch and size than it was traced with, and timed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmact.cli import UserError, add_common_arguments, build_runner, load_config, one_line_errors
from mmact.conversion import CHEAP, fold_batch_norms, model_to_pwlu

HEADS = ('rpn_head', 'bbox_head', 'decode_head', 'head')


class Dense(nn.Module):
    """Backbone, neck and dense head of a model: images to a flat tuple of maps.

    Args:
        model: A model of MMDetection, MMSegmentation, MMPose or MMPretrain.

    Attributes:
        spec: How the outputs are nested, once it has run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = next((name for name in HEADS if hasattr(model, name)), None)
        if self.head is None or not hasattr(model, 'extract_feat'):
            raise UserError(f'{type(model).__name__} has no backbone and dense head to export')
        # RoI heads see the features too.
        self.features = hasattr(model, 'roi_head')
        self.spec = None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the features, where a RoI head needs them, and the head's outputs."""
        features = self.model.extract_feat(image)
        outputs = getattr(self.model, self.head)(features)
        flat, self.spec = pytree.tree_flatten((features if self.features else (), outputs))
        return tuple(flat)


class Flat(nn.Module):
    """A head whose outputs are made a flat tuple."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.spec = head, None

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """(N, C, S, S) to the head's outputs."""
        flat, self.spec = pytree.tree_flatten(self.head(features))
        return tuple(flat)


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The graphs of a model, by name."""
    parts: dict[str, nn.Module] = {'dense': Dense(model)}
    roi_head = getattr(model, 'roi_head', None)
    for name in ('bbox_head', 'mask_head'):
        heads = getattr(roi_head, name, None)
        if isinstance(heads, nn.ModuleList):
            parts |= {f'{name}_{i}': Flat(head) for i, head in enumerate(heads)}
        elif heads is not None:
            parts[name] = Flat(heads)
    return parts


def simplified(model: nn.Module, shape: tuple[int, int], max_error: float) -> nn.Module:
    """A copy of a model in its cheapest equal form; says what became of it."""
    model = copy.deepcopy(model).eval()
    example = (1, 3, *shape)
    report = model_to_pwlu(model, max_error, keep=CHEAP, example=example)
    folded = fold_batch_norms(model, example)
    error = max((site.error for site in report.replaced), default=0.0)
    print(
        f'{len(folded)} BatchNorms folded, {len(report.replaced)} activations turned into PWLUs '
        f'(largest error {error:.2g}), {len(report.kept)} kept'
    )
    return model


def inputs_of(model: nn.Module, batches: Sequence[Any]) -> dict[str, list[Tensor]]:
    """Inputs of each part of a model while it predicts."""
    seen: dict[str, list[Tensor]] = {}
    parts = parts_of(model)

    def record(name: str) -> Callable:
        return lambda module, args: seen.setdefault(name, []).append(args[0].detach().clone())

    watched = {n: model.backbone if n == 'dense' else p.head for n, p in parts.items()}
    handles = [m.register_forward_pre_hook(record(n)) for n, m in watched.items()]
    with torch.no_grad():
        for batch in batches:
            model.test_step(batch)
    for handle in handles:
        handle.remove()
    return seen


def dynamic(x: Tensor, sizes: bool = True) -> tuple[dict[int, Any]]:
    """Batch and, of images, height and width are free, as far as the model lets them be."""
    dims = (0, 2, 3) if sizes and x.size(1) == 3 else (0,)
    return (dict.fromkeys(dims, torch.export.Dim.AUTO),)


def to_onnx(part: nn.Module, x: Tensor, path: Path, sizes: bool = True) -> int:
    """Writes a part as ONNX; returns the number of its nodes."""
    import onnx
    from onnxscript import optimizer

    with torch.no_grad():
        program = torch.onnx.export(
            part, (x,), dynamo=True, dynamic_shapes=dynamic(x, sizes), verbose=False
        )
    # Tables of activations are functions of parameters alone, however many.
    limit = 1 << 24
    optimizer.optimize(program.model, input_size_limit=limit, output_size_limit=limit)
    program.save(path)
    return len(onnx.load(path, load_external_data=False).graph.node)


def to_torch_export(part: nn.Module, x: Tensor, path: Path, sizes: bool = True) -> int:
    """Writes a part as an exported program; returns the number of its nodes."""
    with torch.no_grad():
        program = torch.export.export(part, (x,), dynamic_shapes=dynamic(x, sizes))
    torch.export.save(program, path)
    return len(program.graph.nodes)


def load_torch_export(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """Runs an exported program."""
    return torch.export.load(path).module()


def session(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Runs an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    runner = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    name = runner.get_inputs()[0].name
    return lambda x: [torch.from_numpy(y) for y in runner.run(None, {name: x.numpy()})]


def difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference as a share of the largest output."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(outputs, expected, strict=True)
        if b.numel()
    )


def right(run: Callable, part: nn.Module, x: Tensor) -> bool:
    """Returns whether a graph runs on an input and gives what its model gives, to 0.1 %."""
    try:
        outputs = run(x)
    except Exception:
        return False
    with torch.no_grad():
        expected = part(x)
    same = all(a.shape == b.shape for a, b in zip(outputs, expected, strict=True))
    return same and difference(outputs, expected) < 1e-3


def milliseconds(function: Callable[[], Any], seconds: float) -> float:
    """Median time of a call."""
    with torch.no_grad():
        function()
        times = []
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


def to_fp16(path: Path, out: Path) -> None:
    """Writes an ONNX file with float16 weights and arithmetic; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), out)


def to_int8(path: Path, out: Path, examples: Sequence[Tensor]) -> None:
    """Quantises the convolutions and linear layers of an ONNX file on examples of its input."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    name = onnxruntime.InferenceSession(path).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator = iter([{name: x.numpy()} for x in examples])

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    quantize_static(
        path,
        out,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=['Conv', 'ConvTranspose', 'Gemm', 'MatMul'],
    )


def run_with(model: nn.Module, files: dict[str, Path], specs: dict[str, Any]) -> nn.Module:
    """A copy of a model that predicts with ONNX files in the place of its parts."""
    model = copy.deepcopy(model).eval()
    stash: list[Any] = []

    def nested(name: str, flat: list[Tensor]) -> Any:
        return pytree.tree_unflatten(flat, specs[name])

    for name, part in parts_of(model).items():
        runs = session(files[name])
        if name == 'dense':

            def extract(image: Tensor, runs: Any = runs) -> Any:
                features, outputs = nested('dense', runs(image))
                stash[:] = [outputs]
                return features

            model.extract_feat = extract
            getattr(model, part.head).forward = lambda *args, **kwargs: stash[0]
        else:
            part.head.forward = lambda x, name=name, runs=runs: nested(name, runs(x))
    return model


def evaluate(runner: Runner, model: nn.Module) -> dict[str, float]:
    """The config's metrics of a model on its test data."""
    loop = runner.test_loop
    # Evaluators print tables of their own.
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        for batch in loop.dataloader:
            loop.evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        return loop.evaluator.evaluate(len(loop.dataloader.dataset))


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint, or none')
    parser.add_argument('--to', choices=('onnx', 'torch-export'), default='onnx')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/export'), help='folder')
    parser.add_argument('--shape', type=int, nargs=2, default=(256, 256), metavar=('H', 'W'))
    parser.add_argument('--max-error', type=float, default=1e-3, help='of an activation as PWLU')
    parser.add_argument('--plain', action='store_true', help='neither fold nor simplify')
    parser.add_argument(
        '--precision',
        nargs='+',
        choices=('fp32', 'fp16', 'int8'),
        default=['fp32'],
        help='int8 is calibrated on the first images of the test data',
    )
    parser.add_argument('--images', type=int, default=16, help='number of images to calibrate on')
    parser.add_argument('--seconds', type=float, default=2.0, help='to time each graph for')
    parser.add_argument('--evaluate', action='store_true', help="the config's metrics of each")
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Exports, compares, times and evaluates."""
    args = parse_args()
    warnings.simplefilter('ignore')
    with one_line_errors():
        cfg = load_config(args)
    with one_line_errors(cfg):
        cfg.log_level = 'WARNING'
        runner = build_runner(cfg)
        model = revert_sync_batchnorm(runner.model).cpu().eval()
        if args.checkpoint != 'none':
            load_checkpoint(model, args.checkpoint, map_location='cpu')
        export(args, runner, model)


def export(args: argparse.Namespace, runner: Runner, model: nn.Module) -> None:
    """Writes the graphs of a model and prints the tables."""
    args.out.mkdir(parents=True, exist_ok=True)
    shape = tuple(args.shape)
    small = model if args.plain else simplified(model, shape, args.max_error)
    needs_data = args.evaluate or 'int8' in args.precision
    batches = []
    if needs_data:
        for batch in runner.test_loop.dataloader:
            batches.append(batch)
            if len(batches) == args.images:
                break
    seen = inputs_of(model, batches)
    originals = parts_of(model)
    files: dict[str, Path] = {}
    onnx = args.to == 'onnx'
    write, load = (to_onnx, session) if onnx else (to_torch_export, load_torch_export)
    print('graph | nodes before | nodes | MB | difference | PyTorch ms | this ms | at | free')
    for name, part in parts_of(small).items():
        x, other = _examples(name, model, shape)
        original = originals[name]
        path = files[name] = args.out / f'{name}.{"onnx" if onnx else "pt2"}'
        before = nodes = write(part, x, path)
        if not args.plain:
            before = _nodes(write, original, x, args.out / f'before_{path.name}')
        free, run = 'batch and size', load(path)
        if not right(run, part, other):
            # Pooling to fixed sizes, such as PSPNet's, is traced for one size; at others the graph
            # fails, or runs and is wrong.
            free, other = 'batch', other[..., : x.size(2), : x.size(3)]
            nodes, run = write(part, x, path, sizes=False), load(path)
            if not right(run, part, other):
                raise UserError(f'{path} gives other outputs than the model: do not use it')
        with torch.no_grad():
            found = difference(run(other), original(other))
        size = sum(f.stat().st_size for f in args.out.glob(f'{path.name}*')) / 2**20
        times = (milliseconds(lambda f=f, x=x: f(x), args.seconds) for f in (original, run))
        columns = (name, before, nodes, f'{size:.1f}', f'{found:.2g}', *(f'{t:.2f}' for t in times))
        print(*columns, tuple(x.shape), free, sep=' | ')
    if args.to == 'onnx' and (args.evaluate or args.precision != ['fp32']):
        specs = {name: part.spec for name, part in originals.items()}
        _precisions(args, runner, model, files, specs, seen)


def _nodes(write: Callable, part: nn.Module, x: Tensor, path: Path) -> int | str:
    """Number of nodes of a part as it was; none where it cannot be written so."""
    try:
        return write(part, x, path)
    except Exception as error:
        return f'fails ({type(error).__name__})'
    finally:
        for file in path.parent.glob(f'{path.name}*'):
            file.unlink()


def _examples(name: str, model: nn.Module, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An input to trace a part with, and one of another batch and size."""
    generator = torch.Generator().manual_seed(0)
    if name == 'dense':
        height, width = shape
        sizes = (2, 3, height, width), (3, 3, height + 64, width + 32)
    else:
        extractor = getattr(model.roi_head, name.partition('_')[0] + '_roi_extractor')
        if isinstance(extractor, nn.ModuleList):
            extractor = extractor[0]
        side = extractor.roi_layers[0].output_size[0]
        sizes = (100, extractor.out_channels, side, side), (30, extractor.out_channels, side, side)
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def _precisions(
    args: argparse.Namespace,
    runner: Runner,
    model: nn.Module,
    files: dict[str, Path],
    specs: dict[str, Any],
    seen: dict[str, list[Tensor]],
) -> None:
    """Writes the other precisions, and prints size, speed and metrics of each."""
    written = {'fp32': files}
    for precision in args.precision:
        if precision != 'fp32':
            written[precision] = {n: f.with_stem(f'{n}_{precision}') for n, f in files.items()}
            for name, path in files.items():
                out = written[precision][name]
                if precision == 'fp16':
                    to_fp16(path, out)
                else:
                    to_int8(path, out, seen[name])
    models = {'PyTorch': model} if args.evaluate else {}
    print('precision | MB | dense ms | metrics')
    for precision, paths in written.items():
        if precision not in args.precision:
            continue
        size = sum(f.stat().st_size for p in paths.values() for f in p.parent.glob(f'{p.name}*'))
        run, (x, _) = session(paths['dense']), _examples('dense', model, tuple(args.shape))
        duration = milliseconds(lambda run=run, x=x: run(x), args.seconds)
        print(f'{precision} | {size / 2**20:.1f} | {duration:.2f}')
        if args.evaluate:
            models[precision] = run_with(model, paths, specs)
    for precision, other in models.items():
        metrics = evaluate(runner, other)
        print(f'{precision} | {metrics}')


if __name__ == '__main__':
    main()
