_base_ = './mobilenet_1xb128-100e_cifar10.py'
model = dict(backbone=dict(**_base_.converted_arelu, original='mmact.CIFARMobileNet'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
