_base_ = ['../_base_/pau.py', './resnet101_1xb64-400e_cifar10.py']
model = dict(
    backbone=dict(
        type='mmact.Converted',
        original='ResNet_CIFAR',
        example=(1, 3, 32, 32),
        act_cfg=_base_.pau,
    )
)
optim_wrapper = dict(
    constructor=_base_.pau_optim.constructor, paramwise_cfg=_base_.pau_optim.paramwise_cfg
)
