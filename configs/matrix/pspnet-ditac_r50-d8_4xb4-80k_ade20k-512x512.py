_base_ = ['./pspnet_r50-d8_4xb4-80k_ade20k-512x512.py', '../_base_/everywhere.py']
model = dict(original='EncoderDecoder', exclude='psp_modules', **_base_.everywhere.ditac)
optim_wrapper = dict(constructor=_base_.constructor)
