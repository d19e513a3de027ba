_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/dyreluc.py']
model = dict(backbone=dict(type='mmact.ResNet', act_cfg=_base_.dyreluc))
