# AReLU paper, Table 8. VGG-11 with BatchNorm and one linear layer, for pictures of 32 x 32 pixels.
_base_ = './resnet18_1xb128-100e_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN'), with_last_pool=True
    ),
    head=dict(in_channels=512),
)
