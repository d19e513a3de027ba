_base_ = ['mmpretrain::_base_/models/mobilenet_v2_1x.py', '../_base_/imagenet_pwlu.py']
model = dict(backbone=dict(type='mmact.MobileNetV2', act_cfg=dict(type='ReLU')))
optim_wrapper = dict(optimizer=dict(weight_decay=4e-5))
param_scheduler = _base_.schedules.e200
train_cfg = dict(max_epochs=200)
