# U-Net with 32 features in the first stage, trained as in Buda et al.'s public implementation.
_base_ = [
    '../_base_/mmseg.py',
    'mmseg::_base_/models/fcn_unet_s5-d16.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/lgg_256x256.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(
        # NormalizeVolume has done it.
        mean=[0.0, 0.0, 0.0],
        std=[1.0, 1.0, 1.0],
        seg_pad_val=0,
        size=_base_.crop_size,
    ),
    backbone=dict(
        base_channels=32,
        norm_cfg=norm_cfg,
        act_cfg=dict(type='ReLU'),
        upsample_cfg=dict(type='DeconvModule', kernel_size=2),
    ),
    decode_head=dict(
        # A convolution of 1 x 1 and nothing else.
        num_convs=0,
        in_channels=32,
        channels=32,
        dropout_ratio=0,
        norm_cfg=norm_cfg,
        # MMSegmentation's Dice is one of each slice, and tells little where there is no lesion: so
        # cross-entropy is added, as in its own U-Net configs (`ce-1.0-dice-3.0`). ignore_index
        # leaves the background, whose overlap is almost 1 from the start, out of the Dice.
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce', loss_weight=1.0),
            dict(
                type='DiceLoss',
                loss_name='loss_dice',
                loss_weight=1.0,
                use_sigmoid=False,
                naive_dice=True,
                eps=1.0,
                ignore_index=0,
            ),
        ],
    ),
    auxiliary_head=None,
    test_cfg=dict(_delete_=True, mode='whole'),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=0.0001),
    constructor='ActivationParamConstructor',
)
param_scheduler = []
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', interval=10, max_keep_ckpts=3, save_best='DSC', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
log_processor = dict(by_epoch=True)
