_base_ = './resnet18_1xb128-100e_cifar10.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(**_base_.converted_arelu, original='ResNet_CIFAR'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
