_base_ = './mobilenet_1xb128-100e_cifar10.py'
model = dict(
    backbone=dict(
        type='mmact.Converted',
        original='mmact.CIFARMobileNet',
        example=(1, 3, 32, 32),
        act_cfg=dict(type='AReLU', alpha=0.9, beta=2.0),
    )
)
optim_wrapper = dict(constructor='ActivationParamConstructor')
