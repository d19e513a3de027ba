_base_ = 'mmpretrain::convnext/convnext-small_32xb128_in1k.py'
