_base_ = './vgg11-arelu_1xb64-200e_cifar100.py'
model = dict(backbone=dict(depth=13))
