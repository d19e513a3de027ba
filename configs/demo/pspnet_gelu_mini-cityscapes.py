_base_ = './pspnet_relu_mini-cityscapes.py'
act_cfg = dict(type='GELU')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
