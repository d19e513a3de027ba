# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""norm_act with SyncBatchNorm in two processes is BatchNorm and activation on the whole batch."""

import copy
import pickle
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import CONTEXT
from torch import nn

from mmact import activations
from mmact.activations import Activation, fusion, list_activations, norm_act
from mmact.ops import has_kernel

CLASSES = [getattr(activations, r.name) for r in list_activations() if hasattr(activations, r.name)]
FUSED = {c.__name__: c for c in CLASSES if issubclass(c, Activation) and c.elementwise_op}
C = 4
# Samples of the two, and the side of their maps.
SHARES = {
    'equal': ((2, 2), 3),
    'unequal': ((3, 1), 3),
    'one value': ((2, 1), 1),
    'none': ((3, 0), 3),
}

pytestmark = [
    pytest.mark.skipif(not has_kernel('pwlu_norm', 'cpu'), reason='needs the compiled CPU kernels'),
    pytest.mark.xdist_group('sync_norm'),  # they share the processes
]


def layers(name, **settings):
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(C, **settings).double()
    nn.init.normal_(bn.weight, 1, 0.3)
    nn.init.normal_(bn.bias, 0, 0.3)
    cls = FUSED[name]
    arguments = {'num_channels': C} if issubclass(cls, activations.ChannelActivation) else {}
    if name == 'GroupRational':
        arguments['num_groups'] = 2
    return bn, cls(**arguments).double()


def batch(share):
    """x, a residual and the gradient of the result."""
    samples, side = SHARES[share]
    torch.manual_seed(1)
    return [torch.randn(sum(samples), C, side, side).double() + 0.5 for _ in range(3)]


def run(function, bn, act, x, residual, grad):
    """The result and every gradient and buffer after two iterations; of the last."""
    inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
    for _ in range(2):
        bn.zero_grad()
        act.zero_grad()
        for t in inputs:
            t.grad = None
        torch.manual_seed(2)
        y = function(bn, act, *inputs)
        y.backward(grad)
    shares = dict(y=y.detach(), x=inputs[0].grad, residual=inputs[1].grad)
    sums = {
        f'{kind}.{name}': p.grad
        for kind, module in (('bn', bn), ('act', act))
        for name, p in module.named_parameters()
    }
    return shares, sums, dict(bn.named_buffers())


def separate(bn, act, x, residual):
    return act(bn(x) + residual)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    results = {}
    for share, (samples, _) in SHARES.items():
        for name in FUSED:
            bn, act = layers(name, momentum=None if share == 'unequal' else 0.1)
            sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(bn))
            given = [t.split(samples)[rank] for t in batch(share)]
            assert fusion._in_one_op(sync, act, *given[:2])
            if share == 'equal':  # also where the layout is another
                given = [t.contiguous(memory_format=torch.channels_last) for t in given]
            results[share, name] = run(norm_act, sync, copy.deepcopy(act), *given)
    half = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        bn, act = (m.float() for m in layers('PWLU'))
        sync = nn.SyncBatchNorm.convert_sync_batchnorm(bn)
        given = [t.split((2, 2))[rank].to(dtype) for t in batch('equal')]
        half[dtype] = run(norm_act, sync, act, *given)
    sync, act = (m.eval() for m in (sync, act))
    alone = norm_act(sync, act, given[0]), separate(sync, act, given[0], 0)
    (folder / f'{rank}.pkl').write_bytes(pickle.dumps((results, half, alone)))
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sync_norm')
    mp.start_processes(worker, (folder,), 2, start_method=CONTEXT.get_start_method())
    return [pickle.loads((folder / f'{rank}.pkl').read_bytes()) for rank in range(2)]


def together(found):
    """What the processes have found, as one would."""
    (shares, sums, buffers), (other_shares, other_sums, other_buffers) = found
    for name, value in buffers.items():
        assert torch.equal(value, other_buffers[name]), name
    result = {k: torch.cat([v, other_shares[k]]) for k, v in shares.items()}
    return result | {k: v + other_sums[k] for k, v in sums.items()} | buffers


def whole(bn, act, *given):
    shares, sums, buffers = run(separate, bn, act, *given)
    return shares | sums | buffers


# RPAU's noise depends on an element's place in the batch.
@pytest.mark.parametrize(
    ('name', 'share'),
    [(n, s) for n, s in product(FUSED, SHARES) if n != 'RPAU' or s == 'none'],
)
def test_equals_the_whole_batch(name, share, results):
    found = together([r[0][share, name] for r in results])
    expected = whole(*layers(name, momentum=None if share == 'unequal' else 0.1), *batch(share))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-8, msg=key)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_smaller_dtypes(dtype, results):
    found = together([r[1][dtype] for r in results])
    given = [t.to(dtype).double() for t in batch('equal')]
    expected = whole(*layers('PWLU'), *given)
    # gx is rounded twice, before and after what it gets through the statistics.
    tolerance = 4 * torch.finfo(dtype).eps
    for key, value in expected.items():
        wanted = value.to(found[key].dtype).double()
        torch.testing.assert_close(
            found[key].double(), wanted, rtol=tolerance, atol=4 * tolerance, msg=key
        )


def test_in_evaluation_nobody_waits(results):
    for _, _, (found, expected) in results:
        torch.testing.assert_close(found, expected)
