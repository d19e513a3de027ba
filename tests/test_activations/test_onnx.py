# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX by both exporters, with standard operators only, for any batch and size of image.

ONNX Runtime gives what PyTorch gives.
"""

import inspect
import io

import pytest
import torch
from marks import every_second, slow
from torch import nn

import mmact
from mmact.activations import PAU, PWLU, Activation, AReLU, DiTAC, Mixture, to_pwlu

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

CHANNELS = 8  # GroupRational has 8 groups
OURS = {
    record.name: record.cls
    for record in mmact.list_activations()
    if issubclass(record.cls, Activation)
}
VARIANTS = {
    'DiTAC as PWLU': lambda: to_pwlu(DiTAC(init='prior', variance=0.01))[0],
    'PAU as PWLU': lambda: to_pwlu(PAU(), bounds=(-4, 4))[0],
    'PAU per channel': lambda: PAU(num_groups=None),
    'PWLU per layer': lambda: PWLU(num_groups=1),
    'DiTAC per channel': lambda: DiTAC(num_cells=4, num_groups=None),
    'GE-DiTAC': lambda: DiTAC(version='ge', num_cells=2, num_groups=2),
    'L-DiTAC': lambda: DiTAC(version='leaky', num_cells=2, domain=(-1, 2)),
    'inf-DiTAC': lambda: DiTAC(version='inf', num_cells=3),
}
ACTIVATIONS = {**OURS, **VARIANTS}
# The newer exporter takes a second for the smallest graph: several activations share one, and a
# variant is there only where it has operators of its own.
EACH_OP = ('PWLU', 'AReLU', 'PAU', 'DyReLUC', 'GE-DiTAC')
REST = [name for name in (*OURS, 'L-DiTAC', 'inf-DiTAC') if name not in EACH_OP]

pytestmark = pytest.mark.filterwarnings('ignore')


def spread(act):
    """Moves the parameters off their special values."""
    with torch.no_grad():
        for parameter in act.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return act


def export(model, x, dims, exporter):
    """The model as ONNX, with dynamic dimensions."""
    file = io.BytesIO()
    if exporter == 'torchscript':
        takes = inspect.signature(torch.onnx.export).parameters
        new = {'dynamo': False} if 'dynamo' in takes else {}
        axes = {'x': {dim: f'size_{dim}' for dim in dims}}
        torch.onnx.export(model, (x,), file, input_names=['x'], dynamic_axes=axes, **new)
    else:
        pytest.importorskip('onnxscript')
        if not hasattr(torch.export.Dim, 'DYNAMIC'):
            pytest.skip('this torch cannot export sizes that it is to find out about')
        sizes = (dict.fromkeys(dims, torch.export.Dim.DYNAMIC),)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=sizes, verbose=False)
        program.save(file)
    return file.getvalue()


class Together(nn.Module):
    """Activations behind one convolution each, so that each is as wide as it was told to be."""

    def __init__(self, names):
        super().__init__()
        self.branches = nn.ModuleList()
        for name in names:
            act = ACTIVATIONS[name]()
            self.branches.append(nn.Sequential(nn.Conv2d(3, CHANNELS, 3), act))
            if 'as PWLU' not in name:  # those are not what they are when they start
                spread(act)

    def forward(self, x):
        return tuple(branch(x) for branch in self.branches)


def compare(model, exported, *inputs, names=('',)):
    session = onnxruntime.InferenceSession(exported, providers=['CPUExecutionProvider'])
    for x in inputs:
        outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            expected = model(x)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        for name, y, e in zip(names, outputs, wanted, strict=True):
            assert y.shape == e.shape, name
            assert (torch.from_numpy(y) - e).abs().max() <= 1e-5 * e.abs().max(), name


@pytest.mark.parametrize(
    ('names', 'exporter'),
    [
        *(((name,), 'torchscript') for name in ACTIVATIONS),
        (EACH_OP, 'dynamo'),
        *(pytest.param(REST[i::3], 'dynamo', marks=slow) for i in range(3)),
    ],
    ids=lambda value: value if isinstance(value, str) else ', '.join(value),
)
def test_images(names, exporter):
    torch.manual_seed(0)
    model = Together(names).eval()
    exported = export(model, torch.randn(2, 3, 9, 7), (0, 2, 3), exporter)
    nodes = onnx.load_from_string(exported).graph.node
    assert {node.domain for node in nodes} == {''}
    sizes = [(2, 3, 9, 7), (5, 3, 12, 10), (1, 3, 3, 3)]
    compare(model, exported, *(3 * torch.randn(size) for size in sizes), names=names)


@pytest.mark.parametrize('name', every_second(ACTIVATIONS))
def test_tokens(name):
    """Channels last, any number of tokens."""
    if name == 'FReLU':
        pytest.skip('FReLU is for images')
    torch.manual_seed(0)
    act = ACTIVATIONS[name]()
    model = nn.Sequential(nn.Linear(3, CHANNELS), act).eval()
    if 'as PWLU' not in name:
        spread(act)
    exported = export(model, torch.randn(2, 5, 3), (0, 1), 'torchscript')
    compare(model, exported, torch.randn(2, 5, 3), torch.randn(4, 7, 3), torch.randn(1, 8, 3))


@pytest.mark.parametrize(
    ('act', 'nodes'),
    [
        (lambda: PWLU(CHANNELS), 17),
        (lambda: PWLU(num_groups=1), 16),
        (lambda: PWLU(CHANNELS, num_groups=2), 17),
        (lambda: Mixture(), 7),
        (lambda: AReLU(), 17),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_few_nodes_and_any_number(act, nodes, tmp_path):
    """As few operators as are known to do, with every size dynamic; NaN and far inputs too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS), act())[1].eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sizes = {0: torch.export.Dim('n'), 2: torch.export.Dim('h'), 3: torch.export.Dim('w')}
    example = torch.randn(2, CHANNELS, 9, 7)
    program = torch.onnx.export(
        model, (example,), dynamo=True, dynamic_shapes=(sizes,), verbose=False
    )
    path = tmp_path / 'model.onnx'
    program.save(path)
    assert len(onnx.load(path).graph.node) <= nodes
    x = 3 * torch.randn(3, CHANNELS, 4, 5)
    x[0, 0] = x.new_tensor([float('nan'), 1e4, -1e4, 1e30, -1e30])
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5, equal_nan=True
        )
