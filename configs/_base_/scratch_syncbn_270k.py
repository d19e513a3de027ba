# Detectors trained from scratch on COCO as in the PWLU paper, section 4.2, which follows He et al.,
# Rethinking ImageNet Pre-training: SyncBN in backbone, neck and heads, 270k iterations of 8 x 2
# images, learning rate 0.02, reduced for the last 60k and the last 20k iterations.
# Settings that the paper leaves open are as in MMDetection: 1000 iterations of linear warm-up
# (mmdet::common/ms-90k_coco.py), residual branches not initialised to zero and no weight decay of
# normalisation (mmdet::scratch).
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

# SyncBN: the models have plain BN, which MMEngine turns into torch's SyncBatchNorm in distributed
# runs. `--cfg-options sync_bn=None` keeps BN.
sync_bn = 'torch'

# Files in one _base_ list may not define the same key, and the detectors' baselines define these.
# So the configs that list this file take them from here, as in `model.backbone = scratch.backbone`.
scratch = dict(
    norm_cfg=dict(type='BN', requires_grad=True),
    backbone=dict(
        type='mmact.ResNet',
        act_cfg=dict(type='ReLU', inplace=True),
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=None,
    ),
    train_dataloader=dict(sampler=dict(type='InfiniteSampler')),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=270000, val_interval=10000),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(
            type='MultiStepLR',
            by_epoch=False,
            begin=0,
            end=270000,
            milestones=[210000, 250000],
            gamma=0.1,
        ),
    ],
    # The constructor gives learned activations parameter groups without weight decay, and treats
    # all other parameters as MMEngine's default constructor does.
    optim_wrapper=dict(
        constructor='ActivationParamConstructor',
        optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    ),
    default_hooks=dict(
        checkpoint=dict(
            type='ResumableCheckpointHook', by_epoch=False, interval=10000, max_keep_ckpts=3
        )
    ),
    log_processor=dict(by_epoch=False),
)
