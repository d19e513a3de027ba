# Mask2Former with a DiTAC at each ReLU: of its ResNet, pixel decoder and transformer.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(type='mmact.Converted', original='EncoderDecoder', act_cfg=dict(type='DiTAC'))
optim_wrapper = dict(constructor='ActivationParamConstructor')
