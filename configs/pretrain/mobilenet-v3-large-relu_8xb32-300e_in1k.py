_base_ = '../_base_/imagenet_dyrelu.py'
model = dict(
    backbone=dict(_delete_=True, type='mmact.MobileNetV3', arch='large'),
    head=dict(
        type='StackedLinearClsHead',
        in_channels=960,
        mid_channels=[1280],
        dropout_rate=0.2,
        act_cfg=dict(type='HSwish'),
    ),
    train_cfg=_base_.mixup,
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_dataloader = dict(dataset=dict(pipeline=_base_.jittered))
