# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX: standard operators only, and ONNX Runtime gives what PyTorch gives."""

import io

import pytest
import torch
from torch import nn

from mmact import list_activations
from mmact.activations import (
    APL,
    ELSA,
    PAU,
    PWLU,
    Activation,
    AReLU,
    DiTAC,
    DyReLUA,
    DyReLUB,
    DyReLUC,
    Mixture,
    SReLU,
    to_pwlu,
)

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')

CHANNELS = 8
ACTIVATIONS = {
    'PWLU': lambda: PWLU(num_channels=CHANNELS),
    'PWLU layer-wise': lambda: PWLU(num_groups=1),
    'DiTAC as PWLU': lambda: to_pwlu(DiTAC(init='prior', variance=0.01))[0],
    'PAU as PWLU': lambda: to_pwlu(PAU(), bounds=(-4, 4))[0],
    'AReLU': AReLU,
    'ELSA': ELSA,
    'APL': lambda: APL(num_channels=CHANNELS),
    'SReLU': lambda: SReLU(num_channels=CHANNELS),
    'Mixture': Mixture,
    'PAU': lambda: PAU(CHANNELS, num_groups=None),
    'DyReLUA': lambda: DyReLUA(CHANNELS),
    'DyReLUB': lambda: DyReLUB(CHANNELS),
    'DyReLUC': lambda: DyReLUC(CHANNELS),
}


@pytest.mark.parametrize('name', ACTIVATIONS)
@pytest.mark.filterwarnings('ignore')
def test_onnx_runtime_gives_the_same(name, tmp_path):
    torch.manual_seed(0)
    act = ACTIVATIONS[name]()
    if 'as PWLU' not in name:  # those are not what they are when they start
        with torch.no_grad():
            for parameter in act.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), act, nn.Conv2d(CHANNELS, 2, 1)).eval()
    batch = torch.export.Dim('batch')
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 9, 7),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    path = tmp_path / 'model.onnx'
    program.save(path)
    assert {node.domain for node in onnx.load(path).graph.node} == {''}
    x = 3 * torch.randn(5, 3, 9, 7)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = model(x)
    assert (torch.from_numpy(y) - expected).abs().max() <= 1e-5 * expected.abs().max()


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


OWN = {r.name: r.cls for r in list_activations() if issubclass(r.cls, Activation)}


@pytest.mark.parametrize('dynamo', [True, False], ids=['dynamo', 'torchscript'])
@pytest.mark.parametrize('name', OWN)
@pytest.mark.filterwarnings('ignore')
def test_every_activation_with_every_size_dynamic(name, dynamo):
    """By both exporters; for DiTAC a warning says what to do instead."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, CHANNELS, 3, padding=1)
    model = nn.Sequential(first, OWN[name]()).eval()
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = {0: 'n', 2: 'h', 3: 'w'}
    sizes = {dim: torch.export.Dim(letter, min=2) for dim, letter in names.items()}
    how = {'dynamic_shapes': (sizes,)} if dynamo else {'dynamic_axes': {'x': names, 'y': names}}
    file = io.BytesIO()

    def export():
        return torch.onnx.export(
            model,
            (torch.randn(2, 3, 6, 5),),
            None if dynamo else file,
            input_names=['x'],
            output_names=['y'],
            dynamo=dynamo,
            verbose=False,
            **how,
        )

    if name == 'DiTAC':
        with pytest.warns(UserWarning, match='to_pwlu'), pytest.raises(Exception, match='cpab'):
            export()
        return
    program = export()
    data = program.model_proto.SerializeToString() if dynamo else file.getvalue()
    session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
    for shape in ((2, 3, 6, 5), (5, 3, 9, 7), (3, 3, 4, 4)):
        x = torch.randn(shape)
        (y,) = session.run(None, {'x': x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5)
