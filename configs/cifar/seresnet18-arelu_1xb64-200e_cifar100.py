_base_ = './seresnet18_1xb64-200e_cifar100.py'
model = dict(backbone=dict(**_base_.converted_arelu, original='mmact.CIFARSEResNet18'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
