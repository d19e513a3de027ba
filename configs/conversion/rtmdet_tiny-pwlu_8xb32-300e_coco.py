# RTMDet-tiny with a PWLU at each of the 76 places where it has a SiLU.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='RTMDet', act_cfg=dict(type='PWLU'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
