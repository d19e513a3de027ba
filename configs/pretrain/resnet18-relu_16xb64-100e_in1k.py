_base_ = ['mmpretrain::_base_/models/resnet18.py', '../_base_/imagenet_pwlu.py']
model = dict(backbone=dict(type='mmact.ResNet', norm_eval=False, act_cfg=dict(type='ReLU')))
