# The PSPNet of configs/ditac, small enough to learn on a CPU in a few minutes, on the miniature
# Cityscapes of tools/dataset_converters/make_mini.py. Model, losses and data layout are those of
# the real thing.
_base_ = '../ditac/pspnet_r50-d8-relu_4xb2-40k_cityscapes-512x1024.py'

data_root = 'data/mini_cityscapes/'
image_scale = (512, 256)
crop_size = (128, 256)
max_iters = 600

# A ResNet-18 of a quarter of the width, and an eighth of the heads' channels.
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=crop_size),
    backbone=dict(depth=18, base_channels=16, stem_channels=16),
    decode_head=dict(in_channels=128, channels=64),
    auxiliary_head=dict(in_channels=64, channels=32),
)

# Positions 2 and 3 are RandomResize and RandomCrop.
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=image_scale, ratio_range=(0.5, 1.0))
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', power=0.9, by_epoch=False, begin=30, end=max_iters, eta_min=1e-5),
]
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.01))

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(type='ResumableCheckpointHook', interval=100),
    visualization=dict(draw=True, interval=20),
)
log_processor = dict(window_size=20)
randomness = dict(seed=0)
