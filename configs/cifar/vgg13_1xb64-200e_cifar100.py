# AReLU paper, Table 7. VGG-13 with BatchNorm and one linear layer, as VGG-11.
_base_ = './vgg11_1xb64-200e_cifar100.py'
model = dict(backbone=dict(depth=13))
