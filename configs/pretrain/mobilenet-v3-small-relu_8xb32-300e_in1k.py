_base_ = '../_base_/imagenet_dyrelu.py'
# The early network of 66 M multiply-adds that the paper compares with.
model = dict(
    backbone=dict(_delete_=True, type='mmact.MobileNetV3', arch='small_early', se='blocks'),
    head=dict(
        type='StackedLinearClsHead',
        in_channels=576,
        mid_channels=[1280],
        dropout_rate=0.1,
        act_cfg=dict(type='HSwish'),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
