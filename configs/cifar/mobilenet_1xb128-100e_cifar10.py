# AReLU paper, Table 8.
_base_ = './resnet18_1xb128-100e_cifar10.py'
custom_imports = dict(imports=['mmact', 'projects.cifar'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type='mmact.CIFARMobileNet'), head=dict(in_channels=1024))
