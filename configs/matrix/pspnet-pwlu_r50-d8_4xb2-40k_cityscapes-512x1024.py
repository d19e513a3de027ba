_base_ = ['./pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', '../_base_/everywhere.py']
model = dict(original='EncoderDecoder', exclude='psp_modules', **_base_.everywhere.pwlu)
optim_wrapper = dict(constructor=_base_.constructor)
custom_hooks = [dict(type='PWLURealignHook', phase1=1859, by_epoch=False)]
