_base_ = './shufflenetv2_1xb64-200e_cifar100.py'
model = dict(
    backbone=dict(
        type='mmact.Converted',
        original='mmact.CIFARShuffleNetV2',
        example=(1, 3, 32, 32),
        act_cfg=dict(type='AReLU', alpha=0.9, beta=2.0),
    )
)
optim_wrapper = dict(constructor='ActivationParamConstructor')
