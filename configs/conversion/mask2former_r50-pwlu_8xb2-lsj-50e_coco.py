# Mask2Former with a PWLU at each ReLU: of its ResNet, pixel decoder and transformer.
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='Mask2Former', act_cfg=dict(type='PWLU'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
