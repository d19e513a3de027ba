_base_ = ['mmpretrain::_base_/models/efficientnet_b0.py', '../_base_/imagenet_pwlu.py']
model = dict(backbone=dict(act_cfg=dict(type='ReLU')))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-5))
param_scheduler = _base_.schedules.e350
train_cfg = dict(max_epochs=350)
auto_augment = dict(type='AutoAugment', policies='imagenet')
train_pipeline = [*_base_.train_pipeline[:-1], auto_augment, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
