# The U-Net of configs/arelu, small enough to train on a CPU in two minutes, on a miniature of the
# LGG data:
#     python tools/dataset_converters/make_mini.py lgg data/mini_lgg --num-patients 16 --size 64 64
_base_ = '../arelu/unet-s5-d16-relu_fcn_1xb16-100e_lgg-256x256.py'

data_root = 'data/mini_lgg/'
crop_size = (64, 64)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(base_channels=8),
    decode_head=dict(in_channels=8, channels=8),
)

dataset = dict(data_root=data_root, val_patients=4)
# Positions 3 and 5 of the pipeline are RandomResize and RandomCrop.
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = crop_size
train_pipeline[5].crop_size = crop_size
train_dataloader = dict(
    num_workers=1,
    batch_size=8,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=dataset)
test_dataloader = val_dataloader

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(type='PolyLR', power=0.9, begin=0, end=max_epochs, convert_to_iter_based=True)
]
default_hooks = dict(
    logger=dict(interval=12),
    checkpoint=dict(type='ResumableCheckpointHook', interval=max_epochs),
    visualization=dict(draw=True, interval=1),
)
randomness = dict(seed=0)
