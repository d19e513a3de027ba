# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every config fits together at full size, learns when it is made small, and is its paper's.

One of each baseline and of each activation is trained and evaluated. Configs of key points are in
test_pose_configs; those in configs/demo are trained by the tests of the tools.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from marks import every_second, slow_unless
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.utils import get_installed_path
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from mmact.activations import (
    PAU,
    PWLU,
    Activation,
    AReLU,
    DiTAC,
    DyReLUC,
    FReLU,
    unresolved,
)
from mmact.cli import build_runner, load_config, prepare_training, resume_exactly
from projects.mini_datasets import make_ade20k, make_cityscapes, make_coco, make_lgg

ROOT = Path(__file__).resolve().parents[2]
# Those of configs/conversion are in tests/test_conversion.
ALL = sorted(
    p for p in (ROOT / 'configs').rglob('*.py') if p.parent.name not in ('_base_', 'conversion')
)
# Those of configs/cifar, configs/matrix and configs/pretrain have tests of their own beside these.
ELSEWHERE = ('cifar', 'matrix', 'pretrain')
CONFIGS = [p for p in ALL if not p.stem.startswith('td-hm') and p.parent.name not in ELSEWHERE]
TABLE3 = [p for p in CONFIGS if p.parent.name == 'pwlu']
PUBLISHED = [p for p in ALL if p.parent.name != 'demo']
ACTIVATION = dict(
    relu=nn.ReLU,
    gelu=nn.GELU,
    swish=nn.SiLU,
    frelu=FReLU,
    pwlu=PWLU,
    arelu=AReLU,
    pau=PAU,
    dyreluc=DyReLUC,
    ditac=DiTAC,
)
# Calls of an activation in a backbone: stem and blocks; in U-Net, two convolutions for each of 5
# stages downwards, two and a transposed one for each of 4 upwards.
SITES = {
    ('mmpretrain.ConvNeXt', None): 3 + 3 + 9 + 3,
    ('SwinTransformer', None): 2 + 2 + 6 + 2,
    ('mmact.ResNetV1c', 18): 3 + 8 * 2,
    ('mmact.ResNet', 18): 1 + 8 * 2,
    ('mmact.ResNet', 50): 1 + 16 * 3,
    ('mmact.ResNetV1c', 50): 3 + 16 * 3,
    ('UNet', None): 5 * 2 + 4 * 3,
}


def word_of(path: Path) -> str:
    """The activation in the name of a config."""
    return next(word for word in path.stem.replace('-', '_').split('_') if word in ACTIVATION)


def kind_of(path: Path) -> type[nn.Module]:
    return ACTIVATION[word_of(path)]


def one_of_each(paths: list[Path], *features: Callable[[Path], str]) -> list[Path]:
    """Few of the paths that have every value of every feature that occurs in all of them."""
    missing = {(f, f(path)) for path in paths for f in features}
    chosen = []
    while missing:
        best = max(paths, key=lambda path: len(missing & {(f, f(path)) for f in features}))
        missing -= {(f, f(best)) for f in features}
        chosen.append(best)
    return sorted(chosen)


TRAINED = one_of_each(
    [p for p in CONFIGS if p.parent.name != 'demo'],
    word_of,
    lambda path: path.stem.replace(word_of(path), '').replace('--', '-').replace('-_', '_'),
)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> dict[str, str]:
    """Folders of miniature data sets by the word in the names of the configs."""
    root = tmp_path_factory.mktemp('data')
    small = dict(num_train=4, num_val=2, size=(64, 64), quiet=True)
    roots = dict(
        coco=make_coco(root / 'coco', **small),
        ade20k=make_ade20k(root / 'ade20k', **small),
        cityscapes=make_cityscapes(root / 'cityscapes', **small),
        lgg=make_lgg(root / 'lgg', num_patients=3, num_slices=3, size=(64, 64), quiet=True),
    )
    return {name: f'{path}/' for name, path in roots.items()}


def find_activations(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, tuple(ACTIVATION.values()))]


def load(path: Path, work_dir: Path, options: dict):
    return load_config(
        argparse.Namespace(
            config=str(path),
            work_dir=str(work_dir),
            cfg_options=options,
            launcher='none',
            local_rank=0,
        )
    )


def _small(path: Path, data: dict[str, str], work_dir: Path) -> dict:
    """The --cfg-options that make a config quick, as a dict."""
    cfg = load(path, work_dir, {})
    root = next(value for name, value in data.items() if name in path.stem)
    options = _small_segmentor(cfg) if cfg.default_scope == 'mmseg' else _small_detector(cfg, root)
    by_epoch = 'max_epochs' in cfg.train_cfg
    options |= {
        f'train_cfg.{"max_epochs" if by_epoch else "max_iters"}': 1 if by_epoch else 2,
        'train_cfg.val_interval': 1 if by_epoch else 2,
        'randomness.seed': 0,
        # Two iterations are an epoch of the miniatures: 4 images, or 3 slices of 2 patients.
        'train_dataloader.batch_size': 3 if 'lgg' in path.stem else 2,
    }
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {
            f'{loader}.dataset.data_root': root,
            f'{loader}.num_workers': 0,
            f'{loader}.persistent_workers': False,
        }
        for i, step in enumerate(cfg[loader].dataset.pipeline):
            key = 'crop_size' if step.type == 'RandomCrop' else 'scale'
            if key in step:
                options[f'{loader}.dataset.pipeline.{i}.{key}'] = (64, 64)
    for index, hook in enumerate(cfg.get('custom_hooks', [])):
        for key in {'phase1', 'interval'} & hook.keys():
            options[f'custom_hooks.{index}.{key}'] = 1
    return options


def _small_detector(cfg: dict, root: str) -> dict:
    expansion = 4 if cfg.model.backbone.depth >= 50 else 1
    channels = dict(in_channels=16, feat_channels=16)
    options = {
        'model.backbone.init_cfg': None,
        # From zero, without pretrained weights, the branches would not learn in 2 iterations.
        'model.backbone.zero_init_residual': False,
        'model.backbone.base_channels': 4,
        **({'model.example': (1, 3, 64, 64)} if cfg.model.type == 'mmact.Converted' else {}),
        'model.neck.in_channels': [4 * expansion * 2**i for i in range(4)],
        'model.neck.out_channels': 16,
        # The first steps of a warm-up are too small to move a float32 weight of 1, and the full
        # learning rate can blow a new detector up, which then detects nothing.
        'param_scheduler.0.start_factor': 0.1,
        'val_evaluator.ann_file': f'{root}annotations/instances_val2017.json',
    }
    if cfg.model.get('original', cfg.model.type) == 'MaskRCNN':
        options |= {f'model.rpn_head.{key}': value for key, value in channels.items()}
        for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
            options[f'model.roi_head.{extractor}.out_channels'] = 16
        for head in ('bbox_head', 'mask_head'):
            options[f'model.roi_head.{head}.in_channels'] = 16
            # Only heads with convolutions have it.
            if head == 'mask_head' or 'Conv' in cfg.model.roi_head[head].type:
                options[f'model.roi_head.{head}.conv_out_channels'] = 16
        options |= {
            'model.train_cfg.rcnn.sampler.num': 16,
            'model.test_cfg.rcnn.score_thr': 0.0,
            'model.test_cfg.rcnn.max_per_img': 5,
        }
    else:
        options |= {f'model.bbox_head.{key}': value for key, value in channels.items()}
        options |= {'model.test_cfg.score_thr': 0.0, 'model.test_cfg.max_per_img': 5}
    return options


def _small_segmentor(cfg: dict) -> dict:
    kind = cfg.model.backbone.type
    options = {'model.data_preprocessor.size': (64, 64)}
    widths = [16, 32, 64, 128]
    if kind in ('mmpretrain.ConvNeXt', 'SwinTransformer'):
        options['model.backbone.init_cfg'] = None
        # Of a warm-up from 1e-6.
        options['param_scheduler.0.start_factor'] = 0.1
        if kind == 'SwinTransformer':
            widths = [24, 48, 96, 192]
            options['model.backbone.embed_dims'] = 24
        else:
            arch = dict(_delete_=True, depths=[3, 3, 9, 3], channels=widths)
            options['model.backbone.arch'] = arch
    else:
        options['model.backbone.base_channels'] = 4
    if kind == 'UNet':
        heads = dict(decode_head=(4, 4))
        options |= {f'{split}_dataloader.dataset.val_patients': 1 for split in ('train', 'val')}
    else:
        if cfg.model.backbone.get('depth') == 18:
            widths = [4, 8, 16, 32]
        head = cfg.model.decode_head
        inputs = widths if head.get('original', head.type) == 'UPerHead' else widths[3]
        heads = dict(decode_head=(inputs, 16), auxiliary_head=(widths[2], 16))
    if kind == 'mmact.ResNetV1c':
        options |= {
            'model.pretrained': None,
            'model.backbone.stem_channels': 8,
            'model.backbone.zero_init_residual': False,
        }
    for head, (inputs, channels) in heads.items():
        options |= {f'model.{head}.in_channels': inputs, f'model.{head}.channels': channels}
    return options


def name_of(path: Path) -> str:
    return f'{path.parent.name}/{path.stem}'


def check_model(path: Path, cfg: Config, model: nn.Module) -> list[nn.Module]:
    """Returns the backbone's activations, after checking that all are the config's."""
    acts = find_activations(model.backbone)
    sites = SITES[cfg.model.backbone.type, cfg.model.backbone.get('depth')]
    assert [type(m) for m in acts] == [kind_of(path)] * sites
    assert not unresolved(model)
    return acts


# Activations of detectors' heads that are replaced: RPN, four convolutions and a linear layer, four
# convolutions and the up-sampling of the masks; two branches of four convolutions for five levels.
HEAD_SITES = {'MaskRCNN': 1 + 5 + 5, 'RetinaNet': 2 * 4 * 5}


def check_heads(path: Path, cfg: Config, model: nn.Module) -> None:
    """The heads of the PWLU paper's detectors have the config's activation too."""
    kind = kind_of(path)
    within = set(model.backbone.modules())
    heads = [m for m in model.modules() if isinstance(m, kind) and m not in within]
    # FReLU is not for linear layers.
    sites = HEAD_SITES[cfg.model.original] - (kind is FReLU and cfg.model.original == 'MaskRCNN')
    assert len(heads) == sites


def check_groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Every parameter is in one group, those of activations in groups without weight decay."""
    optimized = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert len(optimized) == len(set(optimized))
    assert {id(p) for p in model.parameters() if p.requires_grad} <= set(optimized)
    acts = [m for m in model.modules() if isinstance(m, Activation) and not m.hyper_function]
    own = {id(p) for m in acts for p in m.parameters(recurse=False)}
    for group in optimizer.param_groups:
        if own & {id(p) for p in group['params']}:
            assert group['weight_decay'] == 0


def load_small(path: Path, data: dict[str, str], work_dir: Path) -> Config:
    cfg = load(path, work_dir, _small(path, data, work_dir))
    if cfg.optim_wrapper.type == 'AmpOptimWrapper' and not torch.cuda.is_available():
        cfg.optim_wrapper.type = 'OptimWrapper'
        del cfg.optim_wrapper.loss_scale
    return cfg


@pytest.mark.parametrize('path', every_second(TRAINED), ids=name_of)
def test_two_iterations_and_an_evaluation(path, data, tmp_path):
    cfg = load_small(path, data, tmp_path)
    runner = build_runner(cfg)
    prepare_training(runner)
    acts = check_model(path, cfg, runner.model)
    check_groups(runner.optim_wrapper.optimizer, runner.model)
    learned = {n: p for n, p in runner.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in learned.items()}
    runner.train()
    assert runner.iter == 2
    # Most of them, because at random a box or mask branch may get no sample.
    moved = [name for name, p in learned.items() if not torch.equal(before[name], p)]
    assert len(moved) > 0.8 * len(before)
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert all(m.phase == 'learn' for m in acts if isinstance(m, PWLU))
    metrics = runner.message_hub.log_scalars
    if cfg.default_scope == 'mmseg':
        name = 'val/DSC' if 'lgg' in path.stem else 'val/mIoU'
        assert 0 <= metrics[name].current() <= 100
    else:
        assert 0 <= metrics['val/coco/bbox_mAP'].current() <= 1
        assert ('val/coco/segm_mAP' in metrics) == ('mask-rcnn' in path.name)


def outputs_of(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of all parts of a model but what makes boxes and masks of them."""
    features = model.extract_feat(images)
    outputs = []
    for name in ('decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            outputs.append(head(features))
    if hasattr(model, 'roi_head'):
        for head, size in ((model.roi_head.bbox_head, 7), (model.roi_head.mask_head, 14)):
            outputs.append(head(nn.functional.interpolate(features[0], (size, size))))
    flat = tree_flatten(outputs)[0]
    assert flat
    return flat


@pytest.mark.parametrize('path', every_second(sorted(set(CONFIGS) - set(TRAINED))), ids=name_of)
def test_gradients_reach_everything_when_small(path, data, tmp_path):
    """A training without data, losses and evaluation; its baseline has them all."""
    cfg = load_small(path, data, tmp_path)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    check_model(path, cfg, model)
    check_groups(build_optim_wrapper(model, cfg.optim_wrapper).optimizer, model)
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)
    torch.manual_seed(0)
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, DropPath)):
            module.eval()  # with two samples whole branches would be dropped
    outputs = outputs_of(model, torch.randn(2, 3, 64, 64))
    sum((t * torch.randn_like(t)).sum() for t in outputs).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    # Of an activation's parameters some have none: no input in a segment, or a unit that is off.
    acts = [m for m in model.modules() if isinstance(m, Activation)]
    own = {id(p) for act in acts for p in act.parameters()}
    reached = [bool(p.grad.any()) for p in learned if id(p) not in own]
    # Nor has a bias before a normalisation.
    assert sum(reached) > 0.95 * len(reached)
    for act in acts:
        parameters = [p for p in act.parameters() if p.requires_grad]  # none in frozen stages
        assert any(p.grad.any() for p in parameters) or not parameters


class _LinspaceOnCPU(TorchFunctionMode):
    """Backbones read the rates of stochastic depth from a tensor, which has none on meta."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        extra = {'device': 'cpu'} if function is torch.linspace else {}
        return function(*args, **{**(kwargs or {}), **extra})


class _OfWidth(nn.Module):
    """What is left of a BatchNorm where nothing is computed, and where it takes long."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.size(1) == self.width
        return x


def to_meta(model: nn.Module) -> nn.Module:
    """The model as shapes alone."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                setattr(module, name, _OfWidth(child.num_features))
    return model.to('meta')


@pytest.mark.parametrize('path', slow_unless(TRAINED.__contains__, CONFIGS), ids=name_of)
def test_parts_fit_at_full_size(path, tmp_path):
    cfg = load(path, tmp_path, {})
    resume_exactly(cfg)
    assert cfg.default_hooks.checkpoint.type == 'ResumableCheckpointHook'
    # Conversion looks at numbers, which there are none of on meta.
    converted = 'mmact.Converted' in str(cfg.model)
    if cfg.model.type == 'mmact.Converted':
        # Of 256 pixels the last level of a pyramid has 2 x 2, and of less it would be left alone.
        size = 256 if cfg.model.original == 'RetinaNet' else 64
        cfg.model.example = (1, 3, size, size)
        if cfg.model.original == 'MaskRCNN':  # the dry run need not look at a thousand boxes
            cfg.model.train_cfg.rpn_proposal.max_per_img = 8
            cfg.model.train_cfg.rcnn.sampler.num = 8
            cfg.model.test_cfg.rpn.max_per_img = 8
    if converted:
        model = MODELS.build(cfg.model).eval()
    else:
        with torch.device('meta'), _LinspaceOnCPU():
            model = MODELS.build(cfg.model).eval()
    # The heads' shapes are looked at on meta in any case, where nothing is computed.
    model = to_meta(model)
    with torch.device('meta'):
        outputs = outputs_of(model, torch.empty(1, 3, 64, 64))
    assert all(t.is_meta for t in outputs)
    check_model(path, cfg, model)
    if path in TABLE3 and converted:
        check_heads(path, cfg, model)
    if 'psp_modules' in str(cfg.model):
        pools = [m for name, m in model.named_modules() if 'psp_modules' in name]
        assert not any(isinstance(m, PWLU) for m in pools)


def without_scope(node):
    """A part of a config without the marks of the codebase that it is inherited from."""
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != '_scope_'}
    return [without_scope(item) for item in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize(
    'path',
    [p for p in CONFIGS if p.parent.name in ('arelu', 'dyrelu', 'pau') and 'lgg' not in p.stem],
    ids=lambda p: p.stem,
)
def test_only_the_activation_differs_from_the_baseline(path, tmp_path):
    cfg = load(path, tmp_path, {})
    name = path.stem.replace('-arelu', '').replace('-pau', '').replace('-dyreluc', '')
    family = 'pspnet' if 'pspnet' in name else name.split('_')[0].replace('-', '_')
    base = Config.fromfile(
        get_installed_path(cfg.default_scope) + f'/.mim/configs/{family}/{name}.py'
    )
    act_cfg = cfg.model.backbone.pop('act_cfg')
    # The weights of Dynamic ReLU's hyper function are ordinary ones.
    constructor = None if act_cfg.type == 'DyReLUC' else 'ActivationParamConstructor'
    assert cfg.optim_wrapper.pop('constructor', None) == constructor
    assert cfg.model.backbone.type == f'mmact.{base.model.backbone.type}'
    cfg.model.backbone.type = base.model.backbone.type
    if act_cfg.type == 'PAU':
        paramwise = cfg.optim_wrapper.pop('paramwise_cfg')
        assert paramwise.pop('activation_lr_mult') * base.optim_wrapper.optimizer.lr == 0.002
        assert paramwise == dict(activation_constant_lr=True)
        assert cfg.optim_wrapper.pop('clip_grad') == dict(max_norm=5, norm_type=2)
        base.optim_wrapper.pop('clip_grad', None)  # MMSegmentation's None
    keys = ('model', 'optim_wrapper', 'train_dataloader', 'train_cfg', 'param_scheduler')
    for key in keys:
        assert without_scope(cfg[key]) == without_scope(base[key]), key
    if act_cfg.type == 'PAU':
        assert act_cfg == dict(type='PAU', m=5, n=4, init='leaky_relu_0.01', num_groups=1)
    elif act_cfg.type == 'DyReLUC':
        # The weights want ReLU. Three times the paper's function, whose attention starts at 1/3.
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(MODELS.build(dict(act_cfg, num_channels=4))(x), x.relu())
        paper = DyReLUC(4)
        assert act_cfg.pop('alphas') == tuple(3 * alpha for alpha in paper.alphas)
        assert act_cfg.pop('lambda_a') == 3 * paper.lambda_a
        assert act_cfg.pop('lambda_b') == 3 * paper.lambda_b
        assert act_cfg == dict(type='DyReLUC')
    else:
        # Close to ReLU, as the weights want it.
        x = torch.linspace(-3, 3, 101)
        assert (MODELS.build(act_cfg)(x) - x.relu()).abs().max() < 0.2


def test_settings_of_buda_et_al(tmp_path):
    names = [f'unet-s5-d16-{act}_fcn_1xb16-100e_lgg-256x256' for act in ('relu', 'arelu')]
    relu, arelu = (load(ROOT / f'configs/arelu/{name}.py', tmp_path, {}) for name in names)
    assert relu.model.backbone.act_cfg == dict(type='ReLU')
    assert arelu.model.backbone.act_cfg == dict(type='AReLU', alpha=0.9, beta=2.0)
    relu.model.backbone.act_cfg = arelu.model.backbone.act_cfg
    assert relu._cfg_dict == arelu._cfg_dict
    assert relu.model.backbone.base_channels == 32
    assert relu.train_cfg.max_epochs == 100
    assert relu.train_dataloader.batch_size == 16
    assert relu.optim_wrapper.optimizer == dict(type='Adam', lr=0.0001)
    assert relu.val_dataloader.dataset.val_patients == 10


@pytest.mark.parametrize('path', TABLE3, ids=lambda p: p.stem)
def test_settings_of_the_paper(path, tmp_path):
    cfg = load(path, tmp_path, {})
    backbone = cfg.model.backbone
    assert backbone.depth == 50
    assert backbone.get('init_cfg') is None
    assert backbone.frozen_stages == -1
    assert not backbone.norm_eval
    assert cfg.sync_bn == 'torch'
    assert cfg.train_dataloader.batch_size * 8 == 16
    resize = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'Resize']
    assert min(resize[0].scale) == 800
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        'SGD',
        0.02,
        0.9,
        0.0001,
    )
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 270000)
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0)
    steps = cfg.param_scheduler[1]
    assert (steps.by_epoch, steps.milestones, steps.gamma) == (False, [210000, 250000], 0.1)
    hooks = cfg.get('custom_hooks', [])
    if kind_of(path) is PWLU:
        assert backbone.act_cfg.num_intervals == 16
        assert backbone.act_cfg.get('num_groups') is None
        assert [(h.type, h.phase1, h.by_epoch) for h in hooks] == [
            ('PWLURealignHook', 36645, False)
        ]
    else:
        assert not hooks


def test_metafile_and_readme_list_every_config():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    listed = {}
    for name in index:
        for model in yaml.safe_load((ROOT / name).read_text(encoding='utf-8'))['Models']:
            listed[model['Name']] = model
            assert Path(model['Config']).stem == model['Name']
            assert 'not reproduced by mmact' in model['Metadata']['Results Reported By']
    assert sorted(listed) == sorted(p.stem for p in PUBLISHED)
    assert all((ROOT / model['Config']).is_file() for model in listed.values())
    for path in PUBLISHED:
        readme = (path.parent / 'README.md').read_text()
        row = next(line for line in readme.splitlines() if path.name in line)
        for result in listed[path.stem].get('Results', []):
            for value in result['Metrics'].values():
                assert f'{value:g}' in row
