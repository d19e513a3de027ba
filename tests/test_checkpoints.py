# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tools load checkpoints without running code that is in them."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')
from test_ops.utils import TORCH

if TORCH < (2, 6):
    pytest.skip('torch before 2.6 cannot be told what is safe', allow_module_level=True)

from mmengine.logging import MessageHub
from mmengine.runner import load_checkpoint
from torch import nn

from mmact.checkpoints import CheckpointError, load_checkpoint_file, load_weights_only

ROOT = Path(__file__).resolve().parents[1]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_what_is_no_checkpoint_runs_no_code(tmp_path):
    model, path, mark = nn.Linear(2, 2), tmp_path / 'trap.pth', tmp_path / 'mark'
    torch.save({'state_dict': model.state_dict(), 'meta': Trap(mark)}, path)
    load_weights_only()
    for load in (load_checkpoint_file, lambda p: load_checkpoint(model, str(p))):
        with pytest.raises(CheckpointError, match='other objects .* weights_only=False') as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert not mark.exists()


def test_checkpoints_of_mmengine(tmp_path):
    """With the logs that are in them, which are no tensors."""
    hub = MessageHub.get_instance('safe')
    for i in range(3):
        hub.update_scalar('train/loss', torch.tensor(float(i)))
        hub.update_scalar('train/lr', 0.1 * i)
    hub.update_info('iter', 3)
    model, path = nn.Linear(2, 2), tmp_path / 'epoch_1.pth'
    saved = dict(
        meta=dict(epoch=1, cfg='a = 1', dataset_meta=dict(CLASSES=('a', 'b'))),
        message_hub=hub.state_dict(),
        state_dict=model.state_dict(),
    )
    torch.save(saved, path)
    load_weights_only()
    loaded = load_checkpoint(nn.Linear(2, 2), str(path))
    assert loaded['meta'] == saved['meta']
    assert torch.equal(loaded['state_dict']['weight'], model.weight)
    again = MessageHub.get_instance('again')
    again.load_state_dict(loaded['message_hub'])
    assert again.get_scalar('train/loss').mean() == 1


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmpose', 'mmpretrain'])
def test_what_data_sets_say_of_themselves(package, tmp_path):
    """MMPose's have colours and weights of key points as arrays of several dtypes."""
    datasets = pytest.importorskip(f'{package}.datasets')
    path, arrays = tmp_path / 'epoch_1.pth', 0
    for name, cls in vars(datasets).items():
        meta = getattr(cls, 'METAINFO', None)
        if not meta:
            continue
        if 'from_file' in meta:
            meta = datasets.datasets.utils.parse_pose_metainfo(dict(meta))
        torch.save(dict(meta=dict(dataset_meta=meta)), path)
        loaded = load_checkpoint_file(str(path))['meta']['dataset_meta']
        assert repr(loaded) == repr(meta), name
        arrays += sum(isinstance(value, np.ndarray) for value in meta.values())
    assert bool(arrays) == (package == 'mmpose')


@pytest.mark.parametrize('code', [c for c in np.typecodes['All'] if c not in 'OV'])
def test_arrays(code, tmp_path):
    array = np.zeros(3, code)
    torch.save(dict(a=array, b=array[0]), tmp_path / 'a.pth')
    loaded = load_checkpoint_file(str(tmp_path / 'a.pth'))
    np.testing.assert_array_equal(loaded['a'], array)
    assert loaded['b'] == array[0] or np.isnat(array[0])


def test_a_part_of_a_checkpoint(tmp_path):
    path = tmp_path / 'half.pth'
    torch.save(nn.Linear(99, 99).state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b'', b'no checkpoint'):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r'half\.pth'):
            load_checkpoint_file(str(path))


def test_nothing_is_loaded_otherwise():
    """Every torch.load of library, tools and projects says weights_only=True."""
    files = [p for folder in ('mmact', 'tools', 'projects') for p in (ROOT / folder).rglob('*.py')]
    calls = []
    for path in files:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if '.load' in text else ():
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
            if name in ('torch.load', 'pickle.load', 'pickle.loads', 'joblib.load'):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                calls.append((path.relative_to(ROOT), name, keywords.get('weights_only')))
    assert calls
    assert not [call for call in calls if call[2] != 'True']
