# UperNet with Swin-T as in section B of the DiTAC paper: the baseline's settings.
_base_ = [
    '../_base_/mmseg.py',
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
]
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
# In the feed-forward network of each of the 12 blocks, and after each convolution of the heads.
act_cfg = dict(type='GELU')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
optim_wrapper = dict(constructor='ActivationParamConstructor')
