_base_ = ['./upernet_r50_4xb2-40k_cityscapes-512x1024.py', '../_base_/everywhere.py']
model = dict(original='EncoderDecoder', exclude='psp_modules', **_base_.everywhere.ditac)
optim_wrapper = dict(constructor=_base_.constructor)
