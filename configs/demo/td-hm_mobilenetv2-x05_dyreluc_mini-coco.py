_base_ = './td-hm_mobilenetv2-x05_relu_mini-coco.py'
model = dict(backbone=dict(act_cfg=dict(type='DyReLUC')), head=dict(act_cfg=dict(type='DyReLUC')))
