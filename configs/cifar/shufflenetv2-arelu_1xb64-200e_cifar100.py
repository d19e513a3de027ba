_base_ = './shufflenetv2_1xb64-200e_cifar100.py'
model = dict(backbone=dict(**_base_.converted_arelu, original='mmact.CIFARShuffleNetV2'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
