_base_ = ['../_base_/mmseg.py', 'mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py']
