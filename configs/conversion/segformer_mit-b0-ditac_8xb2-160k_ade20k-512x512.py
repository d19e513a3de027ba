# SegFormer with a DiTAC at each GELU of the feed-forward networks, which it starts as.
_base_ = ['../_base_/mmseg.py', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(
    type='mmact.Converted',
    original='EncoderDecoder',
    act_cfg=dict(type='DiTAC'),
    include='backbone',
    replaces='GELU',
)
