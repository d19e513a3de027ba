# SegFormer with a PWLU for each channel at each GELU of the feed-forward networks.
_base_ = ['../_base_/mmseg.py', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(
    type='mmact.Converted',
    original='EncoderDecoder',
    act_cfg=dict(type='PWLU'),
    include='backbone',
    replaces='GELU',
)
optim_wrapper = dict(constructor='ActivationParamConstructor')
