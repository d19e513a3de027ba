_base_ = [
    'mmpretrain::_base_/models/mobilenet_v3/mobilenet_v3_small_imagenet.py',
    '../_base_/imagenet_pwlu.py',
]
# The activations of squeeze-and-excitation, and that between the two linear layers, stay.
model = dict(backbone=dict(type='mmact.MobileNetV3', arch='small', act_cfg=dict(type='ReLU')))
optim_wrapper = dict(optimizer=dict(weight_decay=4e-5))
param_scheduler = _base_.schedules.e350
train_cfg = dict(max_epochs=350)
