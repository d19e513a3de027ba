# DINO with a DiTAC at each ReLU: of its ResNet, and of its transformer's feed-forward networks.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='DINO', act_cfg=dict(type='DiTAC'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
