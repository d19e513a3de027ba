_base_ = [
    '../_base_/mmseg.py',
    'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    '../_base_/pau.py',
]
model = dict(backbone=dict(type='mmact.ResNetV1c', act_cfg=_base_.pau))
optim_wrapper = _base_.pau_optim
optim_wrapper.clip_grad._delete_ = True  # None in the baseline
optim_wrapper.paramwise_cfg.activation_lr_mult = 0.2  # of 0.01
