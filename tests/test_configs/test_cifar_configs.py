# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""CIFAR configs build, and differ from their baselines in the activation alone."""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')

from marks import slow_unless
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmact.activations import PAU, AReLU

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {p.stem: p for p in sorted((ROOT / 'configs/cifar').glob('*.py'))}
#: Activations. Those of the PAU paper's networks are a tenth of the parameters that PAU adds, and
#: those of the rest are given too (appendix A.4.2).
SITES = {
    'densenet121': 120,
    'mobilenet': 27,
    'mobilenetv2': 36,
    'resnet18': 17,
    'resnet101': 100,
    'seresnet18': 17,
    'shufflenetv2': 37,
    'squeezenet': 25,
    'vgg8': 5,
    'vgg11': 8,
    'vgg13': 10,
}
PARAMETERS = {
    'densenet121': 6956298,
    'mobilenetv2': 2296922,
    'resnet101': 42512970,
    'vgg8': 3918858,
}
LEARNED = {n: AReLU if '-arelu_' in n else PAU for n in CONFIGS if '-' in n.partition('_')[0]}


def build(name):
    cfg = Config.fromfile(CONFIGS[name])
    init_default_scope('mmpretrain')
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('name', slow_unless(lambda n: n.startswith(('resnet18', 'vgg8')), CONFIGS))
def test_builds(name):
    cfg, model = build(name)
    classes = 100 if name.endswith('cifar100') else 10
    assert cfg.train_dataloader.dataset.type == f'CIFAR{classes}'
    model.eval()
    assert model(torch.zeros(1, 3, 32, 32), mode='tensor').shape == (1, classes)
    parameters = sum(p.numel() for p in model.parameters())
    network = name.partition('_')[0].partition('-')[0]
    if name in LEARNED:
        acts = [m for m in model.modules() if isinstance(m, LEARNED[name])]
        assert len(acts) == SITES[network]
        parameters -= sum(p.numel() for act in acts for p in act.parameters())
        # As the paper starts it, not as the ReLU that was there.
        arguments = {k: v for k, v in cfg.model.backbone.act_cfg.items() if k != 'type'}
        wanted = LEARNED[name](**arguments)
        for p, q in zip(acts[-1].parameters(), wanted.parameters(), strict=True):
            assert torch.equal(p, q)
    assert parameters == PARAMETERS.get(network, parameters)
    batch, epochs = name.split('_')[1].split('-')
    assert cfg.train_dataloader.batch_size == int(batch.removeprefix('1xb'))
    assert cfg.train_cfg.max_epochs == int(epochs[:-1])


def test_the_readme_lists_them():
    text = (ROOT / 'configs/cifar/README.md').read_text()
    assert all(f'(./{name}.py)' in text for name in CONFIGS)


@pytest.mark.parametrize('name', LEARNED)
def test_only_the_activation_differs_from_its_baseline(name):
    network, _, rest = name.partition('-')
    twin = f'{network}_{rest.partition("_")[2]}'
    cfg, base = (Config.fromfile(CONFIGS[n]) for n in (name, twin))
    for key in ('train_dataloader', 'val_dataloader', 'train_cfg', 'param_scheduler'):
        assert cfg[key] == base[key], key
    assert cfg.model.head == base.model.head
    assert cfg.optim_wrapper.optimizer == base.optim_wrapper.optimizer
    assert cfg.optim_wrapper.constructor == 'ActivationParamConstructor'
    ours, theirs = dict(cfg.model.backbone), dict(base.model.backbone)
    assert ours.pop('original') == theirs.pop('type')
    assert ours.pop('type') == 'mmact.Converted'
    assert {k: v for k, v in ours.items() if k not in ('act_cfg', 'example')} == theirs
