# UperNet with ConvNeXt-T as in section B of the DiTAC paper, whose learning rate and weight decay
# are those of MMSegmentation's Swin-T. The baseline's are 1e-4 and 0.05, the learning rate less
# from stage to stage.
_base_ = [
    '../_base_/mmseg.py',
    'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
]
custom_imports = dict(imports=['mmpretrain.models', 'mmact'], allow_failed_imports=False)
# Between the two linear layers of each of the 18 blocks, and after each convolution of the heads.
act_cfg = dict(type='GELU')
model = dict(
    backbone=dict(act_cfg=act_cfg),
    decode_head=dict(act_cfg=act_cfg),
    auxiliary_head=dict(act_cfg=act_cfg),
)
optim_wrapper = dict(
    constructor='ActivationParamConstructor',
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    # No decay of norms, biases and layer scales, as in the baseline.
    paramwise_cfg=dict(
        _delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
