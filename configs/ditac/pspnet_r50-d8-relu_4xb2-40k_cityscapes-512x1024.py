# PSPNet with ResNet-50 as in section B of the DiTAC paper: the baseline's settings.
_base_ = ['../_base_/mmseg.py', 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py']
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
# After each convolution or sum of the backbone, and after each convolution of the heads.
act_cfg = dict(type='ReLU')
model = dict(
    backbone=dict(type='mmact.ResNetV1c', act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
optim_wrapper = dict(constructor='ActivationParamConstructor')
