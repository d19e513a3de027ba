_base_ = ['../_base_/pau.py', './resnet101_1xb64-400e_cifar10.py']
converted_pau = dict(type='mmact.Converted', example=(1, 3, 32, 32), act_cfg=_base_.pau)
model = dict(backbone=dict(**converted_pau, original='ResNet_CIFAR'))
optim_wrapper = dict(
    constructor=_base_.pau_optim.constructor, paramwise_cfg=_base_.pau_optim.paramwise_cfg
)
