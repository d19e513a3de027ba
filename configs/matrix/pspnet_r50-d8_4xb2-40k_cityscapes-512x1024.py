_base_ = ['../_base_/mmseg.py', 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py']
