_base_ = ['./pspnet_r50-d8-relu_4xb2-40k_cityscapes-512x1024.py', '../_base_/ditac.py']
act_cfg = _base_.activations.dyreluc
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
