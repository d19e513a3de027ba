_base_ = ['./convnext-tiny-gelu_upernet_8xb2-amp-160k_ade20k-512x512.py', '../_base_/ditac.py']
act_cfg = _base_.activations.pwlu
model = dict(
    backbone=dict(act_cfg=act_cfg),
    # The maps of 1 x 1 to 6 x 6 keep their ReLU: section 4.1 of the PWLU paper.
    decode_head=dict(
        type='mmact.Converted', original='UPerHead', exclude='psp_modules', act_cfg=act_cfg
    ),
    auxiliary_head=dict(act_cfg=act_cfg),
)
# 5 epochs of the 20210 training images of ADE20K.
custom_hooks = [dict(type='PWLURealignHook', phase1=5 * 20210 // 16, by_epoch=False)]
