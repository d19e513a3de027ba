_base_ = './resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
model = dict(backbone=dict(type='mmact.ResNet', norm_eval=False, act_cfg=dict(type='DiTAC')))
optim_wrapper = dict(constructor='ActivationParamConstructor')
