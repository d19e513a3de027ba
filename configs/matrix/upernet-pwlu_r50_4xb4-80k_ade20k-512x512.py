_base_ = ['./upernet_r50_4xb4-80k_ade20k-512x512.py', '../_base_/everywhere.py']
model = dict(original='EncoderDecoder', exclude='psp_modules', **_base_.everywhere.pwlu)
optim_wrapper = dict(constructor=_base_.constructor)
custom_hooks = [dict(type='PWLURealignHook', phase1=6315, by_epoch=False)]
