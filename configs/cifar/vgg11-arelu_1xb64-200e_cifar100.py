_base_ = './vgg11_1xb64-200e_cifar100.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(**_base_.converted_arelu, original='VGG'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
