# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every activation in two processes: DDP, and FSDP2's fully_shard, against one process."""

import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import CONTEXT
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mmact
from mmact.activations import Activation

OWN = {r.name: r.cls for r in mmact.list_activations() if issubclass(r.cls, Activation)}
RANKS, STEPS = 2, 2


def network(name):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), OWN[name]())
    width = first(torch.zeros(2, 3, 5, 5)).size(1)  # Maxout's is smaller
    return nn.Sequential(*first, nn.Conv2d(width, 4, 1))


def behind_a_norm(name, fused):
    """With a BatchNorm before the activation, and no bias before it: its gradient is rounding."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, bias=False)
    model = nn.Sequential(first, nn.BatchNorm2d(8), OWN[name](), nn.Conv2d(8, 4, 1)).double()
    assert not fused or mmact.fuse(model)
    return DistributedDataParallel(model)


def train(model, batches):
    """Parameters after some steps, those of a sharded model whole."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for i, x in enumerate(batches):
        torch.manual_seed(i)  # of RPAU's noise
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [getattr(p, 'full_tensor', lambda p=p: p)().detach() for p in model.parameters()]


def difference(found, expected):
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def worker(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=RANKS
    )
    mesh = init_device_mesh('cpu', (RANKS,))
    torch.manual_seed(1)
    batches = [torch.randn(4, 3, 6, 6) for _ in range(STEPS)]
    shares = [x.chunk(RANKS)[rank] for x in batches]
    results = {}
    for name in OWN:
        expected = train(network(name), batches)
        parallel = train(DistributedDataParallel(network(name)), shares)
        behind = [
            train(behind_a_norm(name, fused), [x.double() for x in shares])
            for fused in (False, True)
            if OWN[name].elementwise_op
        ]
        others = [[torch.empty_like(p) for _ in range(RANKS)] for p in parallel]
        for p, copies in zip(parallel, others, strict=True):
            dist.all_gather(copies, p)
        sharded = network(name)
        fully_shard(sharded[1], mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        results[name] = {
            'ranks': all(torch.equal(a, b) for a, b in others),
            'ddp': difference(parallel, expected),
            'behind a norm': difference(*behind) if behind else 0,
            'sharded': difference(train(sharded, batches), expected),
        }
    if rank == 0:
        (folder / 'results.json').write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    pytest.importorskip('torch.distributed.fsdp', reason='no fully_shard')
    if not hasattr(torch.distributed.fsdp, 'fully_shard'):
        pytest.skip('fully_shard came with torch 2.6')
    folder = tmp_path_factory.mktemp('distributed')
    mp.start_processes(worker, (folder,), RANKS, start_method=CONTEXT.get_start_method())
    return json.loads((folder / 'results.json').read_text())


@pytest.mark.xdist_group('distributed')  # they share the processes
@pytest.mark.parametrize('name', OWN)
def test_two_processes_learn_as_one(name, results):
    """Ranks are equal to the bit; both ways of sharing the work end where one process does."""
    found = results[name]
    assert found['ranks']
    # RPAU's noise depends on an element's place in the batch, FReLU's BatchNorm on the share.
    if name not in ('RPAU', 'FReLU'):
        assert found['ddp'] <= 1e-5
    assert found['sharded'] <= 1e-6
    assert found['behind a norm'] <= 1e-5
