# PyTorch's recipe for ImageNet, which the PAU paper follows (section A.4.1).
_base_ = [
    'mmpretrain::_base_/models/mobilenet_v2_1x.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(type='mmact.MobileNetV2', act_cfg=dict(type='ReLU')))
