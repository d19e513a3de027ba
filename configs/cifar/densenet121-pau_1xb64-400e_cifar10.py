_base_ = './resnet101-pau_1xb64-400e_cifar10.py'
custom_imports = dict(imports=['mmact', 'projects.cifar'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, **_base_.converted_pau, original='mmact.CIFARDenseNet121'),
    head=dict(in_channels=1024),
)
