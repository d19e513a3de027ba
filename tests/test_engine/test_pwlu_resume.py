# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainings that are stopped, killed or distributed learn exactly what an unbroken one learns."""

import signal
from pathlib import Path

import pytest
import torch
from processes import Started, finish
from toy_training import ADAMW, SGD, Watch, build_runner, main


def assert_same(a, b, where: str = '') -> None:
    """Compares nested containers of tensors and numbers, bit by bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f'{where}.{i}')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Model, EMA and optimizer."""
    a, b = (torch.load(p, weights_only=False) for p in (a, b))
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_same(a[part], b[part], part)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    """Work dirs of unbroken trainings with checkpoints of every epoch or iteration."""
    made = {}

    def make(loop: str, optimizer: dict) -> Path:
        key = loop + optimizer['type']
        if key not in made:
            made[key] = tmp_path_factory.mktemp(key)
            resumable(made[key], loop, optimizer).train()
        return made[key]

    return make


def resumable(work_dir: Path, loop: str, optimizer: dict, watch: Watch | None = None, **kwargs):
    by_epoch = loop == 'epoch'
    return build_runner(
        work_dir,
        loop,
        4 if by_epoch else 8,
        hook=dict(phase1=2 if by_epoch else 4, by_epoch=by_epoch),
        hooks=[dict(type='EMAHook', momentum=0.1), *([watch] if watch else [])],
        optimizer=optimizer,
        val=True,
        **kwargs,
    )


# In phase I, at its last checkpoint, and in phase II.
@pytest.mark.parametrize('optimizer', [SGD, ADAMW], ids=lambda o: o['type'])
@pytest.mark.parametrize(
    ('loop', 'stop', 'start_of_phase2'),
    [('epoch', 1, 6), ('epoch', 2, 6), ('epoch', 3, 6)]
    + [('iter', stop, 4) for stop in (1, 3, 4, 5, 7)],
)
def test_resumed_training_is_bit_identical(
    tmp_path, unbroken, loop, stop, start_of_phase2, optimizer
):
    whole = unbroken(loop, optimizer)
    watch = Watch()
    checkpoint = whole / f'{loop}_{stop}.pth'
    resumable(tmp_path, loop, optimizer, watch, resume=True, load_from=str(checkpoint)).train()
    for iteration, phases in watch.phases.items():
        expected = 'collect' if iteration < start_of_phase2 else 'learn'
        assert set(phases.values()) == {expected}, iteration
    last = f'{loop}_{4 if loop == "epoch" else 8}.pth'
    assert_same_checkpoint(whole / last, tmp_path / last)


def test_last_checkpoint_of_phase_1_still_collects(unbroken):
    state = torch.load(unbroken('epoch', SGD) / 'epoch_2.pth', weights_only=False)['state_dict']
    assert int(state['fc.1.phase_id']) == 1
    assert int(state['fc.1.num_batches_tracked']) == 6


# Iteration 4 is the second of epoch 2 in phase I, iteration 10 the second of epoch 4 in phase II.
@pytest.mark.parametrize('kill_at', [4, 10], ids=['phase-1', 'phase-2'])
def test_killed_training_resumes_bit_identically(tmp_path, unbroken, kill_at):
    killed = Started(tmp_path / 'output', main, tmp_path, '--kill-at', kill_at)
    assert killed.wait() == -signal.SIGKILL, killed.log.read_text()
    assert not (tmp_path / 'epoch_4.pth').exists()
    watch = Watch()
    resumable(tmp_path, 'epoch', SGD, watch, resume=True).train()
    assert min(watch.phases) == kill_at - 1
    assert_same_checkpoint(unbroken('epoch', SGD) / 'epoch_4.pth', tmp_path / 'epoch_4.pth')


def train_on_two_ranks(work_dir: Path, *args: object) -> list[dict]:
    """Trains with gloo; returns what each rank saw."""
    work_dir.mkdir(exist_ok=True)
    rendezvous = work_dir / f'rendezvous{len(args)}'
    finish(
        *(
            Started(
                work_dir / f'output{rank}', main, work_dir, '--distributed', rendezvous, *args,
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
            )
            for rank in range(2)
        )
    )  # fmt: skip
    return [torch.load(work_dir / f'rank{rank}.pt') for rank in range(2)]


def parameters_and_statistics(rank: dict) -> dict:
    """The final state but for BatchNorm's statistics, which MMEngine leaves to each rank."""
    return {k: v for k, v in rank['final'].items() if not k.startswith('conv.1.running')}


def test_ranks_agree_and_pool_their_statistics(tmp_path):
    schedule = ('--loop', 'iter', '--length', 7, '--phase1', 3)
    ranks = train_on_two_ranks(tmp_path / 'whole', *schedule)
    assert not torch.equal(ranks[0]['inputs']['fc.1'][0], ranks[1]['inputs']['fc.1'][0])
    for iteration in range(7):
        phase = 'collect' if iteration < 3 else 'learn'
        assert set(ranks[0]['phases'][iteration].values()) == {phase}
        # Statistics too: every iteration may be the one whose checkpoint is resumed.
        assert_same(ranks[0]['states'][iteration], ranks[1]['states'][iteration], str(iteration))
    assert_same(
        parameters_and_statistics(ranks[0]),
        parameters_and_statistics(ranks[1]),
    )
    for path, channel_dim in (('conv.2', 1), ('fc.1', -1)):
        mean = std = None
        for inputs in zip(*(rank['inputs'][path][:3] for rank in ranks), strict=True):
            x = torch.cat(inputs).double().movedim(channel_dim, 0).flatten(1)
            new = x.mean(1), x.std(1, correction=0)
            mean = new[0] if mean is None else 0.9 * mean + 0.1 * new[0]
            std = new[1] if std is None else 0.9 * std + 0.1 * new[1]
        state = ranks[0]['states'][3][path]
        # Float32 against float64: 1.4e-7 is the largest relative difference seen.
        close = dict(rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(state['left_bound'].double(), mean - 3 * std, **close)
        torch.testing.assert_close(state['right_bound'].double(), mean + 3 * std, **close)

    # Only rank 0 writes checkpoints; resumed in phase I, both ranks go on as if nothing had been.
    (tmp_path / 'resumed').mkdir()
    (tmp_path / 'resumed/last_checkpoint').write_text(str(tmp_path / 'whole/iter_2.pth'))
    resumed = train_on_two_ranks(tmp_path / 'resumed', *schedule, '--resume')
    for rank in range(2):
        assert min(resumed[rank]['phases']) == 2
        assert_same(
            parameters_and_statistics(ranks[rank]),
            parameters_and_statistics(resumed[rank]),
        )
