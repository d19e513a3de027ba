_base_ = './convnext-tiny_32xb128_in1k.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(act_cfg=dict(type='DiTAC')))
optim_wrapper = dict(constructor='ActivationParamConstructor')
