_base_ = './pspnet_relu_mini-cityscapes.py'
act_cfg = dict(type='DiTAC')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
custom_hooks = [
    dict(type='ActivationRegularizerHook', weight=1e-5),
    dict(type='LearnedActivationHook', interval=100, by_epoch=False),
]
