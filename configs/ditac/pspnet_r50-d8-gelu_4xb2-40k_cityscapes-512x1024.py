_base_ = './pspnet_r50-d8-relu_4xb2-40k_cityscapes-512x1024.py'
act_cfg = dict(type='GELU')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
