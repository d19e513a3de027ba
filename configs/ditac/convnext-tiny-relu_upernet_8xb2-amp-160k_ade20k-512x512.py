_base_ = './convnext-tiny-gelu_upernet_8xb2-amp-160k_ade20k-512x512.py'
act_cfg = dict(type='ReLU')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
