_base_ = './mobilenet-v3-small_8xb128_in1k.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(type='mmact.MobileNetV3', act_cfg=dict(type='DiTAC')))
optim_wrapper = dict(constructor='ActivationParamConstructor')
