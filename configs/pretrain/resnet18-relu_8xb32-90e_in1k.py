_base_ = '../_base_/imagenet_dyrelu.py'
model = dict(
    backbone=dict(
        type='mmact.ResNet', depth=18, out_indices=(3,), norm_eval=False, act_cfg=dict(type='ReLU')
    ),
    head=dict(in_channels=512, dropout_rate=0.1),
)
optim_wrapper = dict(optimizer=_base_.resnet.optimizer)
param_scheduler = _base_.resnet.param_scheduler
train_cfg = dict(max_epochs=90)
