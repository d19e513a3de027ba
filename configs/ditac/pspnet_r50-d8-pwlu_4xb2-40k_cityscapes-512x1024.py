_base_ = ['./pspnet_r50-d8-relu_4xb2-40k_cityscapes-512x1024.py', '../_base_/ditac.py']
act_cfg = _base_.activations.pwlu
model = dict(
    backbone=dict(act_cfg=act_cfg),
    # The maps of 1 x 1 to 6 x 6 keep their ReLU: section 4.1 of the PWLU paper.
    decode_head=dict(
        type='mmact.Converted', original='PSPHead', exclude='psp_modules', act_cfg=act_cfg
    ),
    auxiliary_head=dict(act_cfg=act_cfg),
)
# 5 epochs of the 2975 training images of Cityscapes.
custom_hooks = [dict(type='PWLURealignHook', phase1=5 * 2975 // 8, by_epoch=False)]
