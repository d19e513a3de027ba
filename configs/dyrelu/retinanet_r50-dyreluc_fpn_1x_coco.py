_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/dyreluc.py']
model = dict(backbone=dict(type='mmact.ResNet', act_cfg=_base_.dyreluc))
