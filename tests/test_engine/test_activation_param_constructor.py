# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""ActivationParamConstructor: which parameter gets which learning rate and weight decay."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn
from toy_training import build_runner

from mmact.activations import PWLU, FReLU

LR, WD = 0.1, 0.01


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {'conv': nn.Conv2d(3, 4, 3), 'bn': nn.BatchNorm2d(4), 'act': PWLU(4)}
        )
        self.head = nn.ModuleDict({'fc': nn.Linear(4, 4), 'act2': PWLU(4), 'funnel': FReLU(4)})


def options_of(
    model: nn.Module, paramwise: dict | None = None, optimizer: dict | None = None
) -> tuple[dict[str, dict], list[dict]]:
    """(options by parameter name, parameter groups)."""
    optimizer = optimizer or dict(type='SGD', lr=LR, momentum=0.9, weight_decay=WD)
    cfg = dict(optimizer=optimizer, constructor='ActivationParamConstructor')
    if paramwise is not None:
        cfg['paramwise_cfg'] = paramwise
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    ids = [id(p) for group in groups for p in group['params']]
    assert len(ids) == len(set(ids)), 'a parameter would be updated twice per step'
    options = {names[id(p)]: group for group in groups for p in group['params']}
    assert set(options) == {n for n, p in model.named_parameters() if p.requires_grad}
    return options, groups


def lr_and_decay(options: dict[str, dict], name: str) -> tuple[float, float]:
    return pytest.approx((options[name]['lr'], options[name]['weight_decay']))


def test_defaults_give_one_group_without_decay():
    model = Net()
    options, groups = options_of(model)
    assert len(groups) == 2
    activation = {name for name in options if name.startswith(('backbone.act', 'head.act2'))}
    assert len(activation) == 10
    for name in options:
        assert (LR, 0.0 if name in activation else WD) == lr_and_decay(options, name)
    # The convolution inside FReLU is a convolution.
    assert 'head.funnel.conv.weight' not in activation


def test_multipliers():
    options, _ = options_of(Net(), dict(activation_lr_mult=0.5, activation_decay_mult=2.0))
    assert lr_and_decay(options, 'backbone.act.points') == (LR * 0.5, WD * 2)
    assert lr_and_decay(options, 'backbone.conv.weight') == (LR, WD)


def test_other_keys_go_on_working():
    options, _ = options_of(
        Net(),
        dict(norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.5, dwconv_decay_mult=3.0),
    )
    assert lr_and_decay(options, 'backbone.bn.weight') == (LR, 0.0)
    assert lr_and_decay(options, 'head.fc.bias') == (LR * 2, WD / 2)
    assert lr_and_decay(options, 'head.funnel.conv.weight') == (LR, WD * 3)
    assert lr_and_decay(options, 'head.funnel.bn.bias') == (LR, 0.0)
    assert lr_and_decay(options, 'head.act2.left_bound') == (LR, 0.0)
    # Norms and activations have the same options, but activations keep groups of their own.
    activation_groups = {id(options[n]) for n in options if '.act' in n}
    assert len(activation_groups) == 1
    assert id(options['backbone.bn.weight']) not in activation_groups


def test_flat_decay_does_not_reach_activations():
    options, _ = options_of(Net(), dict(flat_decay_mult=7.0))
    assert lr_and_decay(options, 'backbone.bn.weight') == (LR, WD * 7)
    assert lr_and_decay(options, 'backbone.act.left_bound') == (LR, 0.0)


def test_custom_key_around_an_activation_scales_its_learning_rate_only():
    options, _ = options_of(
        Net(),
        dict(
            activation_lr_mult=0.5,
            custom_keys={'head': dict(lr_mult=10.0, decay_mult=3.0, momentum=0.5)},
        ),
    )
    assert lr_and_decay(options, 'head.fc.weight') == (LR * 10, WD * 3)
    assert lr_and_decay(options, 'head.act2.points') == (LR * 5, 0.0)
    assert options['head.act2.points']['momentum'] == 0.5
    assert lr_and_decay(options, 'backbone.act.points') == (LR * 0.5, 0.0)


def test_custom_key_that_names_an_activation_wins():
    options, _ = options_of(
        Net(),
        dict(
            activation_lr_mult=0.5,
            custom_keys={
                'head': dict(lr_mult=10.0),
                'act2': dict(lr_mult=3.0),
                'backbone.act.points': dict(decay_mult=1.0),
                'right_bound': dict(lr_mult=0.0),
            },
        ),
    )
    assert lr_and_decay(options, 'head.act2.points') == (LR * 3, 0.0)
    assert lr_and_decay(options, 'head.act2.right_bound') == (0.0, 0.0)
    assert lr_and_decay(options, 'backbone.act.points') == (LR * 0.5, WD)
    assert lr_and_decay(options, 'backbone.act.left_bound') == (LR * 0.5, 0.0)
    assert lr_and_decay(options, 'backbone.act.right_bound') == (0.0, 0.0)


def test_frozen_and_shared_parameters():
    model = Net()
    model.backbone['act'].requires_grad_(False)
    options_of(model)
    model.again = model.head['act2']
    options_of(model)


def test_optimizer_that_decays_by_default():
    # AdamW decays by 0.01 where its config does not say otherwise.
    options, _ = options_of(Net(), optimizer=dict(type='AdamW', lr=LR))
    assert lr_and_decay(options, 'backbone.act.points') == (LR, 0.0)
    assert lr_and_decay(options, 'backbone.conv.weight') == (LR, 0.01)


@pytest.mark.parametrize(
    ('paramwise', 'optimizer', 'message'),
    [
        (
            dict(activation_lr_mult=-1),
            None,
            'activation_lr_mult must be a finite number >= 0, got -1',
        ),
        (dict(activation_decay_mult='no'), None, 'activation_decay_mult must be a finite number'),
        (
            dict(activation_decay_mult=1.0),
            dict(type='SGD', lr=0.1),
            'activation_decay_mult=1.0 needs weight_decay=',
        ),
        (dict(activation_lr_mult=2.0), dict(type='AdamW'), 'activation_lr_mult=2.0 needs lr='),
    ],
)
def test_wrong_multipliers(paramwise, optimizer, message):
    with pytest.raises(ValueError, match=message):
        options_of(Net(), paramwise, optimizer)


def test_training_and_resuming_with_it(tmp_path):
    optim_wrapper = dict(
        constructor='ActivationParamConstructor',
        paramwise_cfg=dict(activation_lr_mult=2.0, norm_decay_mult=0.0),
    )
    settings = dict(length=3, hook=dict(phase1=1), optim_wrapper=optim_wrapper)
    build_runner(tmp_path / 'a', **settings).train()
    runner = build_runner(
        tmp_path / 'b', **settings, resume=True, load_from=str(tmp_path / 'a/epoch_2.pth')
    )
    runner.train()
    groups = runner.optim_wrapper.optimizer.param_groups
    assert [len(g['params']) for g in groups] == [5, 2, 10]
    a, b = (
        torch.load(tmp_path / f'{x}/epoch_3.pth', weights_only=False)['state_dict'] for x in 'ab'
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
