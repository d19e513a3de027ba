# AReLU paper, Table 7. VGG-11 with BatchNorm and one linear layer, for pictures of 32 x 32 pixels.
_base_ = './resnet18_1xb64-200e_cifar100.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN'), with_last_pool=True
    ),
    head=dict(in_channels=512),
)
