_base_ = './squeezenet_1xb64-200e_cifar100.py'
model = dict(backbone=dict(**_base_.converted_arelu, original='mmact.CIFARSqueezeNet'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
