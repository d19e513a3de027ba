# The demo: the Mask R-CNN of configs/pwlu, made small enough to learn on a CPU in a few minutes, on
# the miniature COCO of tools/dataset_converters/make_mini.py. Model, losses, hooks and data layout
# are those of the real thing.
_base_ = '../pwlu/mask-rcnn_r50-scratch-pwlu_fpn_syncbn_270k_coco.py'

data_root = 'data/mini_coco/'
image_scale = (160, 128)
max_iters = 400
phase1 = 100

# A ResNet-18 of half the width, and a quarter of the channels behind it.
channels = 64
model = dict(
    backbone=dict(depth=18, base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        # Objects of 10 to 100 pixels.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, conv_out_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=100)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, filter_cfg=dict(min_size=0), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.01),
    # A few hundred steps of AdamW's size would leave the functions close to ReLU.
    paramwise_cfg=dict(activation_lr_mult=5),
)

custom_hooks = [
    dict(type='PWLURealignHook', phase1=phase1, by_epoch=False),
    dict(type='LearnedActivationHook', interval=phase1, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(type='ResumableCheckpointHook', interval=phase1),
    visualization=dict(draw=True, interval=10),
)
log_processor = dict(window_size=20)
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
