_base_ = ['../_base_/mmseg.py', 'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py']
