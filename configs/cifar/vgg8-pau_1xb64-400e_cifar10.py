_base_ = './resnet101-pau_1xb64-400e_cifar10.py'
custom_imports = dict(imports=['mmact', 'projects.cifar'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmact.Converted',
        original='mmact.CIFARVGG8',
        example=(1, 3, 32, 32),
        act_cfg=_base_.pau,
    ),
    head=dict(in_channels=512),
)
