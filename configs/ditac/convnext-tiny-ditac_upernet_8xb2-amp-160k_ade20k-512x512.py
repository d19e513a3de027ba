_base_ = ['./convnext-tiny-gelu_upernet_8xb2-amp-160k_ade20k-512x512.py', '../_base_/ditac.py']
act_cfg = _base_.activations.ditac
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
