# RTMDet-tiny with a DiTAC at each of the 76 places where it has a SiLU. DiTAC starts as GELU.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='RTMDet', act_cfg=dict(type='DiTAC'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
