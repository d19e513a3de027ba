_base_ = [
    './swin-tiny-patch4-window7-in1k-pre-gelu_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/ditac.py',
]
act_cfg = _base_.activations.pwlu
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
# 5 epochs of the 20210 training images of ADE20K.
custom_hooks = [dict(type='PWLURealignHook', phase1=5 * 20210 // 16, by_epoch=False)]
