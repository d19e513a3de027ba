# AReLU paper, Table 7.
_base_ = './resnet18_1xb64-200e_cifar100.py'
custom_imports = dict(imports=['mmact', 'projects.cifar'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='mmact.CIFARShuffleNetV2'), head=dict(in_channels=1024)
)
