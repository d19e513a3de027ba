_base_ = ['./mask-rcnn_r50_fpn_1x_coco.py', '../_base_/everywhere.py']
model = dict(original='MaskRCNN', **_base_.everywhere.ditac)
optim_wrapper = dict(constructor=_base_.constructor)
